"""Distil a teacher of frames into a student of events: `--config config/pretrain/NAME.yaml`."""

from __future__ import annotations

import logging
import os
import sys

from scaleevent_ros.commands import ends_in_words


def main() -> None:
    """Run; an expected error is one line on stderr and exit code 2."""
    # Here, since they take seconds, in which it may be interrupted.
    from scaleevent_ros.distill.configuration import Pretraining, parse_configuration
    from scaleevent_ros.distill.pretrain import pretrain
    from scaleevent_ros.visuals.panels import draw_panel

    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts
    logging.basicConfig(level=logging.INFO if first else logging.ERROR, format="%(message)s")
    configuration = parse_configuration(Pretraining, sys.argv[1:], str(__doc__))
    outcome = pretrain(configuration, draw_panel)
    logging.getLogger(__name__).info(
        "done after step %d; best after step %d: %.4f",
        outcome.step,
        outcome.best_step,
        outcome.best_score,
    )


if __name__ == "__main__":
    with ends_in_words("pretrain"):
        main()
