"""The replay node's parameters."""

from __future__ import annotations

from dataclasses import dataclass

from scaleevent_ros.nodes.parameters import RELIABILITIES, parameter


@dataclass(frozen=True)
class ReplayParameters:
    """Parameters of the replay node, for launch files, YAML files and the command line."""

    path: str = parameter("", "Bag, or recording that `scaleevent convert` reads, to play.")
    topics: tuple[str, ...] = parameter((), "Topics to play. Empty: all.")
    rate: float = parameter(
        1.0, "Seconds of the recording played a second. 0: without waiting.", minimum=0
    )
    loop: bool = parameter(False, "Begin again at the end.")
    start_offset: float = parameter(0.0, "Seconds of the recording to skip.", minimum=0)
    delay: float = parameter(
        1.0, "Seconds before the first message, for subscribers to find the topics.", minimum=0
    )
    paused: bool = parameter(False, "Wait for the service ~/resume.")
    restamp: bool = parameter(
        True, "Move header stamps to now, their distances kept (divided by `rate`)."
    )
    clock_hz: float = parameter(
        0.0,
        "Publish the recording's time on /clock so often, for nodes with use_sim_time; needs "
        "restamp false. 0: never.",
        minimum=0,
        maximum=1000,
    )
    reliability: str = parameter(
        "auto", "QoS of the publishers; auto: as recorded.", choices=RELIABILITIES
    )
