#!/bin/sh
# Resolve the constraints files for every supported Python at once: `pin.sh` after a change of what
# is required, `pin.sh --upgrade` to move everything. Commit the result when `make test` passes.
set -eu
cd "$(dirname "$0")"
upgrade=${1:-}
pin() {
    output=$1
    shift
    ../../.venv/bin/uv pip compile --quiet $upgrade --universal --python-version 3.10 \
        --no-annotate --no-header --extra dev ../../setup.py "$@" --output-file "$output"
}
pin constraints.txt pins.in requirements-ros.txt
pin constraints-numpy1.txt pins.in pins-numpy1.in
