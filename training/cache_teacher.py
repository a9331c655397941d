"""Fill `teacher.cache` for a pretraining run: `scaleevent cache-teacher` of a checkout."""

from __future__ import annotations

import sys

from scaleevent_ros.commands import ends_in_words

if __name__ == "__main__":
    with ends_in_words("cache_teacher"):
        # Here, since it takes seconds, in which it may be interrupted.
        from scaleevent_ros.training import cache_teacher

        cache_teacher(sys.argv[1:])
