"""The one base class of every error that the package raises on purpose."""

from __future__ import annotations


class ScaleEventError(Exception):
    """Something outside the program is wrong: the message names it and the mend.

    Each layer derives its own class from it. The command line and the nodes print the message
    alone, without a traceback; any other exception is a defect of ours.

    Attributes:
        exit_code: Of a command that ends with it.
    """

    exit_code = 2
