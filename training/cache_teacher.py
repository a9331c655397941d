"""Fill `teacher.cache` for a pretraining run: `scaleevent cache-teacher` of a checkout."""

from __future__ import annotations

import sys

from scaleevent_ros.commands import exit_on_error

if __name__ == "__main__":
    with exit_on_error("cache_teacher"):
        # Here, since it takes seconds, in which it may be interrupted.
        from scaleevent_ros.training import cache_teacher

        cache_teacher(sys.argv[1:])
