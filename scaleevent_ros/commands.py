"""How commands end: one line on stderr and an exit code for each expected error."""

from __future__ import annotations

import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scaleevent_ros.errors import ScaleEventError, describe

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERRUPTED = 130  # shells' exit code for SIGINT


@contextmanager
def exit_on_error(name: str) -> Iterator[None]:
    """Exit with one line on stderr for an expected error, an `OSError` or Ctrl-C.

    Warnings are also printed as one line each, from then on.

    Args:
        name: Name of the command, with which the line begins.

    Raises:
        SystemExit: With the error's `ScaleEventError.exit_code`, or 130 for Ctrl-C.
    """

    def show(message: Warning | str, *_: object) -> None:
        sys.stderr.write(f"{name}: warning: {message}\n")

    # Libraries' warnings, without a line of their source.
    warnings.showwarning = show  # type: ignore[assignment]
    try:
        yield
    except ScaleEventError as error:
        sys.stderr.write(f"{name}: {error}\n")
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        sys.stderr.write(f"{name}: {describe(error)}\n")
        raise SystemExit(ScaleEventError.exit_code) from None
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{name}: interrupted\n")
        raise SystemExit(INTERRUPTED) from None
