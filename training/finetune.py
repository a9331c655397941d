"""Train a task's head on a student of events: `--config config/finetune/NAME.yaml`."""

from __future__ import annotations

import logging
import os
import sys

from scaleevent_ros.commands import ends_in_words


def main() -> None:
    """Run; an expected error is one line on stderr and exit code 2."""
    # Here, since they take seconds, in which it may be interrupted.
    from scaleevent_ros.distill.configuration import parse_configuration
    from scaleevent_ros.tasks.finetune import Finetuning, finetune
    from scaleevent_ros.tasks.objectives import OBJECTIVES

    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts
    logging.basicConfig(level=logging.INFO if first else logging.ERROR, format="%(message)s")
    configuration = parse_configuration(Finetuning, sys.argv[1:], str(__doc__))
    outcome = finetune(configuration)
    judged_by = OBJECTIVES[configuration.data.task].judged_by
    logging.getLogger(__name__).info(
        "done after step %d with %s %.4f; best after step %d",
        outcome.step,
        judged_by,
        outcome.metrics[judged_by],
        outcome.best_step,
    )


if __name__ == "__main__":
    with ends_in_words("finetune"):
        main()
