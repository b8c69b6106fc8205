"""Blocks of a long axis, computed one after the other so that intermediate tensors stay small.

On a CPU a block that stays in cache is fastest; on a GPU it only has to fit into memory.
"""

from collections.abc import Iterator


def blocks(count: int, most: int | None, each: int = 1) -> Iterator[slice]:
    """Slices that cover 0 … count in order, of equal length but for the last one.

    Args:
        most: numbers that a block may hold; a block has one item at least. None: a single block.
        each: numbers that one item holds.
    """
    length = max(1, count if most is None else most // max(1, each))
    for first in range(0, count, length):
        yield slice(first, min(first + length, count))
