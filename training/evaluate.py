"""Judge checkpoints with a head, and compare groups of them: `evaluate.py CHECKPOINT`."""

from __future__ import annotations

import logging
import sys

from scaleevent_ros.commands import ends_in_words


def main() -> None:
    """Run; an expected error is one line on stderr and exit code 2."""
    # Here, since they take seconds, in which it may be interrupted.
    from scaleevent_ros.tasks.evaluation import evaluate
    from scaleevent_ros.tasks.evaluation_options import parse_request
    from scaleevent_ros.visuals.predictions import draw_example

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.stdout.write(evaluate(parse_request(sys.argv[1:]), draw_example))


if __name__ == "__main__":
    with ends_in_words("evaluate"):
        main()
