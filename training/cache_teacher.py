"""Fill `teacher.cache` for a pretraining run; the same as `scaleevent cache-teacher`."""

from __future__ import annotations

import sys

from scaleevent_ros.commands import exit_on_error

if __name__ == "__main__":
    with exit_on_error("cache_teacher"):
        # Imported here: it takes seconds, and Ctrl-C must end it with one line.
        from scaleevent_ros.training import cache_teacher

        cache_teacher(sys.argv[1:])
