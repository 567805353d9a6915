"""JPEGs as they are stored, and at a fraction of their size."""

from __future__ import annotations

from wdtrain.triple import decode_overlay as decode
from wdtrain.triple import decode_scaled
from wdtrain.triple import encode_overlay as encode
from wdtrain.triple import overlay_shape as shape

__all__ = ["decode", "decode_scaled", "encode", "shape"]
