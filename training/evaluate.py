"""Measure and compare checkpoints: `scaleevent evaluate` of a checkout."""

from __future__ import annotations

import sys

from scaleevent_ros.commands import exit_on_error

if __name__ == "__main__":
    with exit_on_error("evaluate"):
        # Here, since it takes seconds, in which it may be interrupted.
        from scaleevent_ros.training import evaluate

        evaluate(sys.argv[1:])
