"""Families of related tasks: sine curves, tables and images."""

from training.errors import UnusableData, UnusableTable
from training.families.backbone_images import BackboneImages, FinetunedImages
from training.families.family import Family, RegressionFamily
from training.families.image_features import ImageFeatures
from training.families.images import Images
from training.families.sinusoid import Sinusoid
from training.families.table import Table
from training.families.vectors import Vectors

__all__ = [
    "BackboneImages",
    "Family",
    "FinetunedImages",
    "ImageFeatures",
    "Images",
    "RegressionFamily",
    "Sinusoid",
    "Table",
    "UnusableData",
    "UnusableTable",
    "Vectors",
]
