"""Distil an image teacher into an event student; the same as `scaleevent pretrain`."""

from __future__ import annotations

import sys

from scaleevent_ros.commands import exit_on_error

if __name__ == "__main__":
    with exit_on_error("pretrain"):
        # Imported here: it takes seconds, and Ctrl-C must end it with one line.
        from scaleevent_ros.training import pretrain

        pretrain(sys.argv[1:])
