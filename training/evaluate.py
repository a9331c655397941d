"""Evaluate and compare checkpoints; the same as `scaleevent evaluate`."""

from __future__ import annotations

import sys

from scaleevent_ros.commands import exit_on_error

if __name__ == "__main__":
    with exit_on_error("evaluate"):
        # Imported here: it takes seconds, and Ctrl-C must end it with one line.
        from scaleevent_ros.training import evaluate

        evaluate(sys.argv[1:])
