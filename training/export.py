"""Export a student as ONNX or TensorRT: `scaleevent export`, for a checkout without the command."""

from __future__ import annotations

import sys

from scaleevent_ros.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "export")
    main()
