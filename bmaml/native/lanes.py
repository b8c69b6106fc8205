"""Vectors of eight rows: arrays `[feature, row]` are read and written eight rows at a time.

Loops over features, with the rows of a block as lanes, need neither remainders nor checks whether arrays
overlap. So they are fast for the narrow layers of small tasks, where loops over features as lanes are not.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from bmaml.native.compiling import OPTIONS

LANES = 8
"""Rows of a block."""
VECTOR = ir.VectorType(ir.DoubleType(), LANES)
FLAGS = tuple(sorted(OPTIONS["fastmath"]))


class Lanes(types.Type):  # type: ignore[misc]
    """The type of eight numbers."""

    def __init__(self) -> None:
        super().__init__("Lanes")


LANES_TYPE = Lanes()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, VECTOR)


def _pointer(context: Any, builder: Any, kind: Any, values: Any, place: list[Any]) -> Any:
    """The address of eight numbers of an array, from this place on."""
    array = context.make_array(kind)(context, builder, values)
    first = cgutils.get_item_pointer(context, builder, kind, array, place)
    return builder.bitcast(first, VECTOR.as_pointer())


def _in_every_lane(builder: Any, value: Any) -> Any:
    """A number in every lane."""
    one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), LANES), None))


@intrinsic
def load(typing_context, rows, feature, first):  # type: ignore[no-untyped-def]
    """Eight numbers of `rows` `[feature, row]`, those of a feature from row `first` on."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        values, *place = arguments
        return builder.load(_pointer(context, builder, signature.args[0], values, place), align=8)

    return LANES_TYPE(rows, types.intp, types.intp), generate


@intrinsic
def element(typing_context, values, *place):  # type: ignore[no-untyped-def]
    """The number at a place, no index of which is negative: numba's own indexing checks that each time."""
    if not isinstance(values, types.Array) or values.dtype != types.float64 or values.ndim != len(place):
        return None

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind = signature.args[0]
        array = context.make_array(kind)(context, builder, arguments[0])
        own = cgutils.unpack_tuple(builder, arguments[1])
        return builder.load(cgutils.get_item_pointer(context, builder, kind, array, own))

    return types.float64(values, types.StarArgTuple.from_types([types.intp] * len(place))), generate


@intrinsic
def store(typing_context, rows, feature, first, values):  # type: ignore[no-untyped-def]
    """Write eight numbers where `load` reads them."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        target, *place, numbers = arguments
        builder.store(numbers, _pointer(context, builder, signature.args[0], target, place), align=8)
        return context.get_dummy_value()

    return types.void(rows, types.intp, types.intp, LANES_TYPE), generate


@intrinsic
def spread(typing_context, value):  # type: ignore[no-untyped-def]
    """A number in every lane."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return _in_every_lane(builder, arguments[0])

    return LANES_TYPE(types.float64), generate


@intrinsic
def fused(typing_context, factor, values, rest):  # type: ignore[no-untyped-def]
    """factor × values + rest; the factor may be one number."""
    same = isinstance(factor, Lanes)

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        left, right, added = arguments
        left = left if same else _in_every_lane(builder, left)
        return builder.fadd(builder.fmul(left, right, flags=FLAGS), added, flags=FLAGS)

    return LANES_TYPE(LANES_TYPE if same else types.float64, LANES_TYPE, LANES_TYPE), generate


@intrinsic
def lane_sum(typing_context, values):  # type: ignore[no-untyped-def]
    """The sum of eight numbers."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        lanes = [
            builder.extract_element(arguments[0], ir.Constant(ir.IntType(32), lane)) for lane in range(LANES)
        ]
        while len(lanes) > 1:
            half = len(lanes) // 2
            lanes = [
                builder.fadd(one, two, flags=FLAGS)
                for one, two in zip(lanes[:half], lanes[half:], strict=True)
            ]
        return lanes[0]

    return types.float64(LANES_TYPE), generate
