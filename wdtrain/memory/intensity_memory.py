"""The memory of `augment.image`, measured on the host, for a pass without data.

A change of colours may be anybody's code and chooses pictures by what it drew, which the meta
device cannot follow. So each is run on a few pictures of noise on the host, and in the pass stands
one that allocates as much as was alive at once, counted in whole pictures. What a kernel takes for
itself is not seen here either.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wdtrain.learn.intensity import Intensity
from wdtrain.learn.view import View
from wdtrain.memory.metering import Meter

_PICTURES, _DRAWS = 2, 8


def with_measured_intensities(view: View, norm_group: int, size: tuple[int, int]) -> View:
    """The view, whose changes of colours need no data and take the memory of the real ones.

    norm_group: samples that are changed at once; size: height and width in pixels.
    """
    augmentation = view.augmentation
    if augmentation is None or not augmentation.image:
        return view
    image = tuple(
        Intensity(each.name, _SameMemory(norm_group, _pictures_held(each, size)))
        for each in augmentation.image
    )
    return view.augmented(replace(augmentation, image=image))


@dataclass(frozen=True)
class _SameMemory:
    """A change that allocates `times_held` times its norm group, its result among it."""

    norm_group: int
    times_held: int

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Tensor:
        shape = (self.norm_group, *pictures.shape[1:])
        held = [pictures.new_empty(shape) for _ in range(self.times_held - 1)]
        changed = torch.empty_like(pictures)
        del held
        return changed


def _pictures_held(change: Intensity, size: tuple[int, int]) -> int:
    """How many pictures' worth of memory a change takes a picture, its result among it: the most of
    a few draws, as a change may pass pictures over."""
    pictures = torch.rand((_PICTURES, 3, *size), generator=torch.Generator().manual_seed(0))
    most = 0
    for draw in range(_DRAWS):
        meter = Meter([pictures], device=pictures.device)
        with meter:
            change(pictures, draw.to_bytes(16, "little"))
        most = max(most, meter.peak_bytes)
    return max(1, -(-most // pictures.nbytes))
