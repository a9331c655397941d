"""Duration of importing the package and of starting the command line."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

CASES = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import scaleevent_ros": [sys.executable, "-c", "import scaleevent_ros"],
    "scaleevent --help": [str(Path(sys.executable).parent / "scaleevent"), "--help"],
}


def main() -> None:
    """Print the median duration of each case over interleaved runs in new processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(runs):
        for name, command in CASES.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - started)
    print(f"| process, whole | median of {runs} | worst |\n|---|---|---|")
    for name, values in seconds.items():
        print(f"| `{name}` | {statistics.median(values):.3f} s | {max(values):.3f} s |")
    added = statistics.median(seconds["import scaleevent_ros"]) - statistics.median(
        seconds["python -c pass"]
    )
    print(f"\n`import scaleevent_ros` adds {added:.3f} s to the interpreter's own start.")


if __name__ == "__main__":
    main()
