"""Train a segmentation head on a student of events: `--config config/finetune/NAME.yaml`."""

from __future__ import annotations

import logging
import os
import sys

from scaleevent_ros.distill.configuration import parse_configuration
from scaleevent_ros.errors import ScaleEventError
from scaleevent_ros.tasks.finetune import Finetuning, finetune


def main() -> None:
    """Run; an expected error is one line on stderr and exit code 2."""
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts
    logging.basicConfig(level=logging.INFO if first else logging.ERROR, format="%(message)s")
    try:
        configuration = parse_configuration(Finetuning, sys.argv[1:], str(__doc__))
        outcome = finetune(configuration)
    except ScaleEventError as error:
        sys.stderr.write(f"finetune: {error}\n")
        raise SystemExit(2) from None
    logging.getLogger(__name__).info(
        "done after step %d; best mean IoU after step %d: %.4f",
        outcome.step,
        outcome.best_step,
        outcome.best_score,
    )


if __name__ == "__main__":
    main()
