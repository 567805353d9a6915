"""A source made of arithmetic, for tests that need a packed dataset and no pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from wdtrain.fields import DepthFormat, Sample, triple_of


class NoiseSource:
    """`count` triples of `size` x `size`: ramps of keyed slope, a keyed disc, keyed depth codes.

    Parts: 12 backgrounds x 10 cut-outs, each index a pair of them in turn.
    """

    def __init__(self, count: int, size: int = 24, *, backgrounds: int = 12, bits: int = 8) -> None:
        self.count, self.size, self.backgrounds = count, size, backgrounds
        self.depth_format = DepthFormat(bits=bits)
        self.fields = triple_of(self.depth_format)
        self.description: dict[str, Any] = {"name": "noise", "count": count, "size": size}

    def __len__(self) -> int:
        return self.count

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return indices % self.backgrounds, indices // self.backgrounds % 10

    def key(self, index: int) -> str:
        return f"n{index:06d}"

    def index_of(self, key: str) -> int:
        return int(key[1:])

    def load(self, index: int) -> Sample:
        random = np.random.default_rng(index)
        grid = np.arange(self.size)
        ramp = random.integers(0, 120, 3) + (grid[:, None, None] + grid[None, :, None]) * 2
        mask = np.zeros((self.size, self.size), np.uint8)
        radius = random.integers(2, self.size // 3)
        centre = self.size // 2
        mask[(grid[:, None] - centre) ** 2 + (grid - centre) ** 2 < radius**2] = 255
        dtype = self.depth_format.dtype
        depth = random.integers(0, self.depth_format.max_code, mask.shape).astype(dtype)
        background, cutout = (int(part) for part in self.parts(np.int64(index)))  # type: ignore[arg-type]
        meta = {"background": f"bg-{background:03d}", "cutout": f"fg-{cutout:03d}"}
        arrays = {"overlay": ramp.astype(np.uint8), "mask": mask, "depth": depth}
        return Sample(self.key(index), arrays, meta)
