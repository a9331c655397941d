"""Export a student as ONNX or TensorRT; the same as `scaleevent export`."""

from __future__ import annotations

import sys

from scaleevent_ros.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "export")
    main()
