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
        "Topic of images; one that ends in /compressed has sensor_msgs/CompressedImage.",
    )
    events: str = parameter("/event_camera/events", "Topic of the simulated event packets.")
    width: int = parameter(0, "Sensor width in pixels. 0: that of the images.", minimum=0)
    height: int = parameter(0, "Sensor height in pixels. 0: that of the images.", minimum=0)
    pixels: str = parameter("standard", "Model of the pixels.", choices=PIXELS)
    threshold: float = parameter(
        0.0, "Contrast that makes an event, in natural logarithms. 0: the model's.", minimum=0
    )
    interpolate: bool = parameter(
        True, "Interpolate frames along the optical flow, which needs a fast CPU."
    )
    max_gap: float = parameter(
        1.0, "Seconds without an image after which the simulation starts anew.", minimum=0.01
    )
