"""The replay node's parameters."""

from __future__ import annotations

from dataclasses import dataclass

from scaleevent_ros.nodes.parameters import RELIABILITIES, parameter


@dataclass(frozen=True)
class ReplayParameters:
    """Parameters of the replay node, for launch files, YAML files and the command line."""

    path: str = parameter("", "Bag to play, or recording in a format of `scaleevent convert`.")
    topics: tuple[str, ...] = parameter((), "Topics to play. Empty: all.")
    rate: float = parameter(1.0, "Speed relative to real time. 0: as fast as possible.", minimum=0)
    loop: bool = parameter(False, "Repeat from the start at the end.")
    start_offset: float = parameter(0.0, "Seconds of the recording to skip.", minimum=0)
    delay: float = parameter(
        1.0,
        "Seconds without another subscriber before the first message; at most five times as long.",
        minimum=0,
    )
    paused: bool = parameter(False, "Start paused, until the service ~/resume is called.")
    restamp: bool = parameter(
        True, "Shift header stamps to now; intervals are kept (divided by `rate`)."
    )
    clock_hz: float = parameter(
        0.0,
        "Frequency at which the recording's time is published on /clock, for nodes with "
        "use_sim_time; needs restamp false. 0: not published.",
        minimum=0,
        maximum=1000,
    )
    reliability: str = parameter(
        "auto", "Reliability of the publishers; auto: as recorded.", choices=RELIABILITIES
    )
