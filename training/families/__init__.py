"""Where tasks come from."""

from training.families.family import Family, Numbers
from training.families.featured import Featured
from training.families.images import Images
from training.families.sinusoid import Sinusoid
from training.families.splits import UnusableData, UnusableTable
from training.families.table import Table

__all__ = ["Family", "Featured", "Images", "Numbers", "Sinusoid", "Table", "UnusableData", "UnusableTable"]
