"""Fill `teacher.cache` for a pretraining run: same options as pretrain.py, resumable."""

from __future__ import annotations

import logging
import os
import sys

from scaleevent_ros.commands import ends_in_words


def main() -> None:
    """Run; an expected error is one line on stderr and exit code 2."""
    # Here, since they take seconds, in which it may be interrupted.
    from scaleevent_ros.distill.configuration import Pretraining, parse_configuration
    from scaleevent_ros.distill.pretrain import cache_features

    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts
    logging.basicConfig(level=logging.INFO if first else logging.ERROR, format="%(message)s")
    configuration = parse_configuration(Pretraining, sys.argv[1:], str(__doc__))
    pairs, computed = cache_features(configuration)
    logging.getLogger(__name__).info(
        "%d pairs: features of %d frames computed, the others were there", pairs, computed
    )


if __name__ == "__main__":
    with ends_in_words("cache_teacher"):
        main()
