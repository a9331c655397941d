"""The one way in which this package compiles its kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

Function = TypeVar("Function", bound="Callable[..., object]")


def kernel(function: Function) -> Function:
    """Compile a function of arrays and scalars to machine code that runs without the GIL.

    Compilation happens at the first call for each signature and is cached on disk. Integers wrap
    and indices are not checked, unless the environment sets ``NUMBA_BOUNDSCHECK=1``.
    """
    return cast("Function", numba.njit(cache=True, nogil=True, error_model="numpy")(function))
