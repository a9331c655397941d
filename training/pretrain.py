"""Distil a teacher of frames into a student of events: `scaleevent pretrain` of a checkout."""

from __future__ import annotations

import sys

from scaleevent_ros.commands import exit_on_error

if __name__ == "__main__":
    with exit_on_error("pretrain"):
        # Here, since it takes seconds, in which it may be interrupted.
        from scaleevent_ros.training import pretrain

        pretrain(sys.argv[1:])
