"""The root of all errors that this project raises on purpose; the others lie beside their causes."""


class BmamlError(Exception):
    """An error that a caller can understand and correct."""
