"""Pictures, masks, classes and depths at another size, by one rule: a pixel is what it covers of
the old."""

from __future__ import annotations

from wdtrain.resize import Size, area, median

__all__ = ["Size", "area", "median"]
