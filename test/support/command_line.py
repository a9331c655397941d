"""The command line in the process of a test, which has imported already what takes seconds."""

from __future__ import annotations

import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from subprocess import CompletedProcess
from unittest.mock import patch

import pytest

from scaleevent_ros.cli import main


def scaleevent(*arguments: object) -> CompletedProcess[str]:
    """Run a command, and return its exit code and what it wrote."""
    command = ["scaleevent", *map(str, arguments)]
    with (
        patch.object(sys, "argv", command),
        redirect_stdout(StringIO()) as out,
        redirect_stderr(StringIO()) as errors,
        pytest.raises(SystemExit) as ended,
    ):
        main()
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return CompletedProcess(command, code or 0, out.getvalue(), errors.getvalue())
