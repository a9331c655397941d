"""The ROS 2 nodes, and the only place that imports rclpy.

In: topics, bags and recordings. Out: bags (recorder), a camera's topics (replay, simulate) and the
network's outputs (perception), with diagnostics. Each node is a module with a `main`.
`parameters` has a dataclass of parameters for each node, which node, launch file and
documentation use. Parts that do not need ROS (writing, pacing, counting) are in further modules, to
test them without it.
"""
