"""Where tasks come from."""

from training.families.family import Family
from training.families.sinusoid import Sinusoid
from training.families.splits import UnusableTable
from training.families.table import Table

__all__ = ["Family", "Sinusoid", "Table", "UnusableTable"]
