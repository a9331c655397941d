"""Measure and compare checkpoints: `scaleevent evaluate` of a checkout."""

from __future__ import annotations

import sys

from scaleevent_ros.commands import ends_in_words

if __name__ == "__main__":
    with ends_in_words("evaluate"):
        # Here, since it takes seconds, in which it may be interrupted.
        from scaleevent_ros.training import evaluate

        evaluate(sys.argv[1:])
