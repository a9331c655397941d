"""Vector instructions for kernels, where numba's own vectorization leaves them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

LANES = 4
"""Number of values that `add_row` updates."""

BLOCK = 32
"""Number of values that `compare_block` compares."""

_FLOAT, _INT32, _INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)


def _load(context: Any, builder: Any, kind: Any, array: Any, index: Any, lanes: int) -> Any:
    return builder.load(_place(context, builder, kind, array, index, lanes), align=4)


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any, lanes: int) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(
        builder.gep(data, [index]), ir.VectorType(_FLOAT, lanes).as_pointer()
    )  # fmt: skip


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    empty = ir.Constant(ir.VectorType(_FLOAT, lanes), ir.Undefined)
    first = ir.Constant(ir.VectorType(_INT32, lanes), [0] * lanes)
    return builder.shuffle_vector(builder.insert_element(empty, value, _INT32(0)), empty, first)


def _add_row(
    _typing_context: Any, rows: Any, index: Any, weights: Any, time: Any, sign: Any
) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        values, first, by, since, factor = arguments
        base = _load(context, builder, kinds[2], by, first.type(0), LANES)
        slope = _load(context, builder, kinds[2], by, first.type(LANES), LANES)
        change = builder.fmul(slope, _splat(builder, since, LANES))
        weight = builder.fmul(builder.fadd(base, change), _splat(builder, factor, LANES))
        row = _place(context, builder, kinds[0], values, first, LANES)
        builder.store(builder.fadd(builder.load(row, align=4), weight), row, align=4)
        return context.get_dummy_value()

    return types.void(rows, index, weights, time, sign), generate


add_row = cast(
    "Callable[[NDArray[np.float32], int, NDArray[np.float32], np.float32, np.float32], None]",
    intrinsic(_add_row),
)
"""Add ``sign * (weights[:4] + time * weights[4:])`` to the four values from an index on.

For kernels only; numba does not vectorize these four additions, which takes three times as long.
"""


def _compare_block(_typing_context: Any, values: Any, index: Any, floor: Any, bar: Any) -> Any:
    del floor, bar  # their types are float32 whatever is passed

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block = _load(context, builder, signature.args[0], arguments[0], arguments[1], BLOCK)
        integers = ir.VectorType(_INT32, BLOCK)
        without_sign = ir.Constant(integers, [0x7FFFFFFF] * BLOCK)
        bits = builder.and_(builder.bitcast(block, integers), without_sign)
        magnitudes = builder.bitcast(bits, block.type)

        def above(value: Any) -> Any:
            mask = builder.fcmp_ordered(">", magnitudes, _splat(builder, value, BLOCK))
            return builder.bitcast(mask, ir.IntType(BLOCK))

        active = builder.zext(builder.ctpop(above(arguments[2])), _INT64)
        hits = builder.zext(above(arguments[3]), _INT64)
        return builder.or_(builder.shl(active, _INT64(32)), hits)

    return types.uint64(values, index, types.float32, types.float32), generate


compare_block = cast(
    "Callable[[NDArray[np.float32], int, np.float32, np.float32], np.uint64]",
    intrinsic(_compare_block),
)
"""Compare the magnitudes of 32 contiguous values from an index on with a floor and a bar.

The low 32 bits of the result mark the values above the bar, the first value in the lowest bit; the
high 32 bits count those above the floor. For kernels only; the index is not checked.
"""


def _lowest_bit(_typing_context: Any, bits: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.uint64(bits), generate


lowest_bit = cast("Callable[[np.uint64], np.uint64]", intrinsic(_lowest_bit))
"""Return the index of the lowest bit that is set in a uint64 other than 0. For kernels only."""
