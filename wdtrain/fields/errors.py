"""What is said of a field that cannot be used, and of a file that cannot be read."""

from __future__ import annotations

from wdtrain.triple import TripleError as FieldError
from wdtrain.triple import check_pixels, decoding

__all__ = ["FieldError", "check_pixels", "decoding"]
