"""The root of every error this project raises on purpose; the children live beside their causes."""


class BmamlError(Exception):
    """Something the caller can understand and put right."""
