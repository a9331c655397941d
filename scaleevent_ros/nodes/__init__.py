"""The ROS 2 nodes, and the only place that imports rclpy.

In come topics, bags and recordings; out go bags (the recorder), a camera's topics (the replay) and
what the network perceives, each with diagnostics. A node is one module with a `main`; beside it
stands what it does without ROS (writing, pacing, counting), which tests reach without a graph.
`node_parameters` has one dataclass for each node, from which node, launch file and documentation
take its parameters.
"""
