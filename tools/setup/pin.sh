#!/bin/sh
# Resolve the constraints files anew, for every supported Python at once. Run by hand; commit the
# result after `make test` has passed with it.
set -eu
cd "$(dirname "$0")"
pin() {
    output=$1
    shift
    ../../.venv/bin/uv pip compile --quiet --upgrade --universal --python-version 3.10 \
        --no-annotate --no-header --extra dev ../../setup.py "$@" --output-file "$output"
}
pin constraints.txt pins.in requirements-ros.txt
pin constraints-numpy1.txt pins.in pins-numpy1.in
