"""The compiler's settings: every native function is compiled by numba in the same way.

Functions are compiled for double precision and release the interpreter's lock. Sums may be reassociated, so
that they use vector instructions; NaN and infinity keep their meaning.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numba
from llvmlite import binding
from numba import types
from numba.extending import intrinsic

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"nsz", "arcp", "contract", "afn", "reassoc"},
}
"""Options of numba. Division by zero gives infinity, as in numpy."""
COMMON_X86 = "x86-64-v3"
"""The processor that code is compiled for where it has AVX2: nearly every machine then shares one cache."""


def choose_processor() -> None:
    """Compile for a common processor where this one can run its code, unless numba's settings name one."""
    features = binding.get_host_cpu_features()
    if not numba.config.CPU_NAME and all(features.get(each) for each in ("avx2", "fma", "bmi2", "f16c")):
        numba.config.CPU_NAME, numba.config.CPU_FEATURES = COMMON_X86, ""


choose_processor()  # before any function is compiled: the compiler is made for one processor


def kernel(function: FunctionT) -> FunctionT:
    """Compile a function that other native functions call."""
    return numba.njit(**OPTIONS)(inspect.unwrap(function))


def inlined(function: FunctionT) -> FunctionT:
    """Compile a function into those that call it.

    Loops that call a function of a number get vector instructions. A call for one layer of a small task would
    spend a good part of its time on handing over the arrays of its named tuples.
    """
    return numba.njit(forceinline=True, **OPTIONS)(inspect.unwrap(function))


def entry(function: FunctionT) -> FunctionT:
    """Compile a function that Python calls, and cache its code where numba's settings say."""
    return numba.njit(cache=True, **OPTIONS)(inspect.unwrap(function))


@intrinsic
def float_of_bits(typing_context, bits):  # type: ignore[no-untyped-def]
    """The double with these bits."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], context.get_value_type(types.float64))

    return types.float64(types.int64), generate


@intrinsic
def bits_of_float(typing_context, value):  # type: ignore[no-untyped-def]
    """The bits of a double."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.bitcast(arguments[0], context.get_value_type(types.int64))

    return types.int64(types.float64), generate


@intrinsic
def rounded(typing_context, value):  # type: ignore[no-untyped-def]
    """The nearest whole number, as a double."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        double = context.get_value_type(types.float64)
        return builder.call(builder.module.declare_intrinsic("llvm.rint", [double]), arguments)

    return types.float64(types.float64), generate
