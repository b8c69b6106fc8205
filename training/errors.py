"""Data that cannot be used; the messages name the file, what was found and what to do."""

from bmaml.errors import BmamlError


class UnusableData(BmamlError, ValueError):
    """Data that no model can be trained on or evaluated with."""


class UnusableTable(UnusableData):
    """A table that no model can be trained on or evaluated with."""
