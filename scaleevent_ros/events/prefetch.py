"""Fetch memory into the cache ahead of its use, in kernels that jump about in large arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

DISTANCE = 32
"""Number of events between a prefetch and its use (best by measurement: 16 to 64)."""


def _prefetch(_typing_context: Any, array: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte_pointer, integer = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]  # numba's
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte_pointer, integer, integer, integer]),
            "llvm.prefetch.p0i8",
        )
        place = builder.bitcast(builder.gep(data, [arguments[1]]), byte_pointer)
        # For writing; to stay in every level of the cache; data, not instructions.
        builder.call(function, [place, *(integer(value) for value in (1, 3, 1))])
        return context.get_dummy_value()

    return types.void(array, index), generate


prefetch = cast("Callable[[NDArray[Any], int], None]", intrinsic(_prefetch))
"""Prefetch the cache line of ``array[index]`` for writing.

For kernels only. The array has one dimension; the index is not checked, and a fetch from beyond
the end does no harm.
"""
