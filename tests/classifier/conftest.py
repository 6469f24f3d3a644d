"""What the tests of this folder have in common."""

from helpers.folding import case

__all__ = ["case"]
