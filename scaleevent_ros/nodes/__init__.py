"""The ROS 2 nodes, and the only place that imports rclpy.

In come topics, bags and recordings; out go bags (the recorder), a camera's topics (the replay) and
what the network perceives, each with diagnostics. A node is one module with a `main`; beside it
stand its parameters, one dataclass from which node, launch file and documentation take them, and
what it does without ROS (writing, pacing, counting), which tests reach without a graph.
"""
