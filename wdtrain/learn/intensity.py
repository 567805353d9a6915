"""Changes to the colours of training pictures, by name: Kornia's own, or one of your own.

They see unit pictures after the warp and before normalisation, a norm group at a time. What is
drawn is drawn on the host for a whole group, by a generator that is a function of (seed, epoch,
group, place in the list): the same for any micro-batch, rank and retry. The surprise: Kornia draws
from the global generator, which is lent to it and given back as it was.
"""

from __future__ import annotations

import difflib
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import kornia.augmentation as kornia_augmentation
import torch
from kornia.augmentation import IntensityAugmentationBase2D
from kornia.core.exceptions import BaseError
from torch import Tensor

from wdtrain.config import IntensitySettings
from wdtrain.learn.groups import keyed
from wdtrain.settings import imported

_LENT: Final = threading.Lock()
"""The global generator is lent to one thread at a time."""
_NOT_HERE: Final = ("Normalize", "Denormalize")
_TRIED: Final = (3, 3, 24, 32)


class GroupRows(NamedTuple):
    """A norm group: how many rows it has, their epoch, and the position of the first."""

    rows: int
    epoch: int
    group_id: int


@dataclass(frozen=True)
class Intensity:
    """One change; call it with a group's pictures [n, 3, h, w] in 0..1 and a key of 16 bytes."""

    name: str
    change: Any = field(repr=False, compare=False)

    def __call__(self, pictures: Tensor, key: bytes) -> Tensor:
        seed = int.from_bytes(key[:8], "little") >> 1
        if not isinstance(self.change, IntensityAugmentationBase2D):
            found: Tensor = self.change(pictures, torch.Generator().manual_seed(seed))
            return found
        with _LENT, torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            drawn = self.change.forward_parameters(pictures.shape)
        if pictures.device.type == "cuda":  # what is not pinned waits for the device
            drawn = {name: value.pin_memory() for name, value in drawn.items()}
        changed: Tensor = self.change(pictures, params=drawn)
        return changed


def change_intensities(
    changes: Sequence[Intensity], pictures: Tensor, groups: Sequence[GroupRows], *, seed: int
) -> Tensor:
    """Unit pictures [n, 3, h, w], group after group changed one after the other, in 0..1."""
    done, start = [], 0
    for rows, epoch, group_id in groups:
        of_group = pictures[start : start + rows]
        for number, change in enumerate(changes):
            key = keyed(b"intensity %d %d" % (seed, number), epoch, group_id)
            of_group = change(of_group, key).clamp(0.0, 1.0)
        done.append(of_group)
        start += rows
    return torch.cat(done) if done else pictures


def build_intensities(settings: Sequence[IntensitySettings]) -> tuple[Intensity, ...]:
    """The changes that a recipe names, each tried on noise. ValueError, which names it, for one
    that does not exist, that moves or mixes pictures, or does not take its options."""
    return tuple(_built(number, one) for number, one in enumerate(settings))


def _built(number: int, settings: IntensitySettings) -> Intensity:
    where, name = f"augment.image[{number}]", settings.name
    found = imported(name, f"{where} {name!r}") if ":" in name else _kornias(where, name)
    options = {key: _as_tuple(value) for key, value in settings.options.items()}
    try:
        made = found(**options) if isinstance(found, type) else _with(found, options)
    except (TypeError, ValueError, ImportError, BaseError) as error:
        raise ValueError(
            f"{where}: {name} cannot be made with {options}: {_line(error)}; it takes "
            f"{', '.join(inspect.signature(found).parameters)}"
        ) from error
    if isinstance(found, type) and issubclass(found, torch.nn.Module):
        _check_kind(where, name, found)
    change = Intensity(name, made)
    _try(where, change)
    return change


def _kornias(where: str, name: str) -> type[torch.nn.Module]:
    found = getattr(kornia_augmentation, name, None)
    if isinstance(found, type) and issubclass(found, torch.nn.Module):
        _check_kind(where, name, found)
        return found
    close = difflib.get_close_matches(name, known_names(), n=1, cutoff=0.4)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ValueError(
        f"{where}: {name!r} is no augmentation of Kornia's; {hint}there are "
        f"{', '.join(known_names())}, or 'package.module:name' for one of your own"
    )


def _check_kind(where: str, name: str, found: type[torch.nn.Module]) -> None:
    if not issubclass(found, IntensityAugmentationBase2D) or name in _NOT_HERE:
        raise ValueError(
            f"{where}: {name} does more than change the colours of each picture (it moves, mixes "
            "or rescales pictures), and what is learned of them would no longer fit; pictures are "
            "moved by augment.zoom, rotation_deg, crop and flip, and mixed by nothing; choose one "
            f"of {', '.join(known_names())}"
        )


def known_names() -> list[str]:
    """Of Kornia's augmentations, those that may be named."""
    names = {
        name: getattr(kornia_augmentation, name) for name in vars(kornia_augmentation)
        if name[0].isupper()
    }  # fmt: skip
    return sorted(
        name
        for name, kind in names.items()
        if isinstance(kind, type)
        and issubclass(kind, IntensityAugmentationBase2D)
        and kind is not IntensityAugmentationBase2D
        and name not in _NOT_HERE
    )


def _with(function: Any, options: Mapping[str, Any]) -> Callable[[Tensor, torch.Generator], Tensor]:
    inspect.signature(function).bind(None, None, **options)
    return lambda pictures, generator: function(pictures, generator, **options)


def _try(where: str, change: Intensity) -> None:
    """ValueError unless it gives pictures back, the same again for the same key, and draws from
    nothing else."""
    noise = torch.rand(_TRIED, generator=torch.Generator().manual_seed(0))
    answers = []
    for _ in range(2):
        try:
            answers.append(change(noise.clone(), b"tried once again"))
        except (RuntimeError, ValueError, TypeError, IndexError, BaseError) as error:
            raise ValueError(
                f"{where}: {change.name} stops on pictures of noise with {_line(error)!r}; mend "
                "its options"
            ) from error
    first, again = answers
    if not isinstance(first, Tensor) or first.shape != _TRIED or not first.is_floating_point():
        what = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
        raise ValueError(f"{where}: {change.name} gives {what} for pictures {_TRIED}; keep these")
    if not first.isfinite().all():
        raise ValueError(f"{where}: {change.name} gives numbers that are not finite for noise")
    if not torch.equal(first, again):
        raise ValueError(
            f"{where}: {change.name} draws chance of its own, so a step could not be repeated; "
            "draw from the generator that it is given"
        )


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0][:200]
