"""Published versions: the only contract between training and serving."""

from model_store.columns import Column, OutsideDomain
from model_store.manifest import InvalidName, Manifest
from model_store.model import CorruptModel, Model
from model_store.store import SHIPPED, Store, UnknownModel, Unreadable

__all__ = [
    "SHIPPED",
    "Column",
    "CorruptModel",
    "InvalidName",
    "Manifest",
    "Model",
    "OutsideDomain",
    "Store",
    "UnknownModel",
    "Unreadable",
]
