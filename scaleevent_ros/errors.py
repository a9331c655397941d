"""The one base class of every error that the package raises on purpose."""

from __future__ import annotations


class ScaleEventError(Exception):
    """Expected error with a cause outside the program; the message gives it and a suggested fix.

    Each layer derives its own class from it. The command line and the nodes print the message
    without a traceback; any other exception is a defect of this package.

    Attributes:
        exit_code: Exit code of a command that ends with it.
    """

    exit_code = 2


def describe(error: OSError) -> str:
    """Write an error of the operating system as one line that names the file."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename is not None else reason
