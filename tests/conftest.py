"""Shapes are checked while the tests run: importing `bmaml` goes through jaxtyping and beartype."""

from jaxtyping import install_import_hook

install_import_hook(["bmaml"], "beartype.beartype").__enter__()
