"""Published versions: the only contract between training and serving."""

from model_store.address import BadAddress, is_address
from model_store.columns import Column, OutsideDomain
from model_store.manifest import InvalidName, Manifest
from model_store.mirror import Mirror, NotAMirror
from model_store.model import CorruptModel, Model
from model_store.remote import RemoteStore, Unreachable
from model_store.store import SHIPPED, Store, UnknownModel, Unreadable

__all__ = [
    "SHIPPED",
    "BadAddress",
    "Column",
    "CorruptModel",
    "InvalidName",
    "Manifest",
    "Mirror",
    "Model",
    "NotAMirror",
    "OutsideDomain",
    "RemoteStore",
    "Store",
    "UnknownModel",
    "Unreachable",
    "Unreadable",
    "is_address",
]
