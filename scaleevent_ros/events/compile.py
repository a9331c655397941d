"""The one way in which this package compiles its kernels."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

Function = TypeVar("Function", bound="Callable[..., object]")

config: Any = numba.config  # filled from the environment when numba is imported
PACKAGE = Path(__file__).resolve().parent.parent


def kernel(function: Function) -> Function:
    """Compile a function of arrays and scalars to machine code that runs without the GIL.

    Compilation happens at the first call for each signature and is cached on disk, below
    ``NUMBA_CACHE_DIR`` where that is set. Integers wrap and indices are not checked, unless the
    environment sets ``NUMBA_BOUNDSCHECK=1``.
    """
    configured = config.CACHE_DIR
    config.CACHE_DIR = str(kernel_cache(configured))
    try:
        return cast("Function", numba.njit(cache=True, nogil=True, error_model="numpy")(function))
    finally:
        config.CACHE_DIR = configured


@functools.cache
def kernel_cache(configured: str) -> Path:
    """Choose the folder of compiled kernels: one for each state of this package's sources.

    numba compiles a kernel anew when its own file changes, but not when a kernel or a constant
    that it takes from another file does.

    Args:
        configured: What the environment asks for; empty for the user's cache folder.
    """
    sources = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        state = path.stat()
        sources.update(f"{path} {state.st_size} {state.st_mtime_ns}\n".encode())
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(configured) if configured else Path(user, "scaleevent_ros", "kernels")
    return folder / sources.hexdigest()[:16]
