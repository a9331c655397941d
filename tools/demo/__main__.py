"""Demo of the whole workflow, from pictures to a running node. `make demo` runs this.

Each stage runs one or a few commands that a user could type, and prints them. A finished stage is
repeated only if its inputs or the code have changed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from tools.demo.journey import FULL, QUICK, Journey
from tools.demo.stages import REPOSITORY, perform


def main() -> int:
    """Run all stages that are not complete; the last line printed is the path of the report."""
    data = Path(os.environ.get("SCALEEVENT_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "demo_output")
    parser.add_argument("--data", type=Path, default=data, help="folder of real recordings, if any")
    parser.add_argument(
        "--quick", action="store_true", help="check that all stages work, with hardly any training"
    )
    options = parser.parse_args()
    extent = QUICK if options.quick else FULL
    journey = Journey(options.output.resolve(), options.data.resolve(), extent)
    # SIGTERM is handled like Ctrl-C, so that the started processes end, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    code = perform(journey.stages(), journey.output)
    if code == 0:
        print(f"This run took {time.monotonic() - began:.0f} s. The report:")
        print(journey.page)
    return code


if __name__ == "__main__":
    sys.exit(main())
