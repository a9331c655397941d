"""The perception node with engines that take long to build, or whose first one fails.

Run as `python -m slow_engine`; `SLOW_ENGINE_S` holds the seconds, `BROKEN_ENGINE` is set for a
defect in the first build.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from scaleevent_ros.nodes import perception, perception_pipeline

if TYPE_CHECKING:
    from scaleevent_ros.nodes.parameters import PerceptionParameters

_build = perception_pipeline.build_pipeline


def build_slowly(
    settings: PerceptionParameters, size: tuple[int, int]
) -> perception_pipeline.Pipeline:
    """Build a pipeline, after a while."""
    if os.environ.pop("BROKEN_ENGINE", ""):
        msg = "an injected defect"
        raise AttributeError(msg)
    end = time.monotonic() + float(os.environ.get("SLOW_ENGINE_S", "0"))
    while time.monotonic() < end:  # computing, as torch and its exporter do
        sum(range(10_000))
    return _build(settings, size)


if __name__ == "__main__":
    perception_pipeline.build_pipeline = build_slowly
    sys.exit(perception.main())
