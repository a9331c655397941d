"""The simulate node's parameters."""

from __future__ import annotations

from dataclasses import dataclass

from scaleevent_ros.nodes.parameters import parameter

PIXELS = ("standard", "ideal", "noisy")


@dataclass(frozen=True)
class SimulateParameters:
    """Parameters of the simulate node, for launch files, YAML files and the command line."""

    image: str = parameter(
        "/camera/image_raw",
        "Topic of images; sensor_msgs/CompressedImage if it ends in /compressed.",
    )
    events: str = parameter("/event_camera/events", "Topic of the simulated event packets.")
    width: int = parameter(0, "Sensor width in pixels. 0: that of the images.", minimum=0)
    height: int = parameter(0, "Sensor height in pixels. 0: that of the images.", minimum=0)
    pixels: str = parameter("standard", "Pixel model.", choices=PIXELS)
    threshold: float = parameter(
        0.0, "Contrast threshold of an event, in natural logarithms. 0: the model's.", minimum=0
    )
    interpolate: bool = parameter(
        True, "Interpolate frames along the optical flow; needs a fast CPU."
    )
    max_gap: float = parameter(
        1.0, "Seconds without an image after which the simulation restarts.", minimum=0.01
    )
