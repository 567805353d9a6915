"""What networks saw of a sample, made by the code of training, and the picture that shows it.

Owns the layout: a column as stored and one an epoch, a row a field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:  # these rooms bring torch along, which the other actions do without
    from torch import Tensor

    from wdtrain.learn.augment import Drawn
    from wdtrain.learn.view import View
    from wdtrain.targets import Target, Truth


class StoredSample(NamedTuple):
    """As read: each field as it is stored, [h, w] or [h, w, 3]; place: shard, block and row."""

    key: str
    fields: dict[str, np.ndarray]
    place: tuple[int, int, int] = (0, 0, 0)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width, *_ = next(iter(self.fields.values())).shape
        return height, width


class PlaceInBatch(NamedTuple):
    """Where a sample stands in an epoch: which row of a norm group of so many, that begins at the
    position `group_id`."""

    epoch: int
    row: int
    rows: int
    group_id: int

    @classmethod
    def alone(cls, epoch: int) -> PlaceInBatch:
        """Where nothing is drawn by group."""
        return cls(epoch, 0, 1, 0)


@dataclass(frozen=True)
class ShownSample:
    """A sample in an epoch: what was drawn, and what networks got (n = 1): its images, normalised
    [1, 3, h, w], and the truth of each field that may be learned."""

    epoch: int
    drawn: Drawn
    images: dict[str, Tensor]
    truths: dict[str, Truth]


# ---------------------------------------------------------------------------- what is seen


def see(
    sample: StoredSample, place: PlaceInBatch, view: View, targets: Mapping[str, Target]
) -> ShownSample:
    """What training makes of the sample in an epoch, on the CPU. Its group is filled with itself:
    what is drawn for a group goes by rows."""
    from wdtrain.learn.intensity import GroupRows

    assert view.augmentation is not None, "there is nothing to show without augmentation"
    stored = _stored(sample)
    images: dict[str, Tensor] = {}
    truths: dict[str, Truth] = {}
    for image, normalisation in view.normalisations.items():
        seen = view.augmentation.see(
            stored[image].expand(place.rows, -1, -1, -1),
            keys=[sample.key] * place.rows,
            epochs=[place.epoch] * place.rows,
            normalisation=normalisation,
            groups=[GroupRows(place.rows, place.epoch, place.group_id)],
        )
        own = slice(place.row, place.row + 1)
        images[image] = seen.picture[own]
        for name, target in targets.items():
            repeated = stored[name].expand(place.rows, -1, -1, -1)
            truths[name] = seen.truth(repeated, target)[own]
    drawn = view.augmentation.draw([sample.key], [place.epoch])
    return ShownSample(place.epoch, drawn, images, truths)


def _stored(sample: StoredSample) -> dict[str, Tensor]:
    """As a batch of one has it: [1, channels, h, w]."""
    import torch

    return {
        name: torch.from_numpy(np.array(np.atleast_3d(array).transpose(2, 0, 1)))[None]
        for name, array in sample.fields.items()
    }


def _undone(picture: Tensor, view: View, image: str) -> np.ndarray:
    """uint8 [h, w, 3] of a normalised picture [1, 3, h, w]."""
    one = view.normalisations[image]
    mean, std = (np.array(values, np.float32) for values in (one.mean, one.std))
    unit = picture[0].permute(1, 2, 0).numpy() * std + mean
    return np.asarray(np.rint(unit.clip(0, 1) * 255), np.uint8)


def augmentation_words(drawn: Drawn, size: tuple[int, ...]) -> list[str]:
    """What was drawn for the first sample, in words; size: height and width in pixels."""
    zoom, shift = drawn.zoom[0], drawn.shift[0]
    right, down = shift * (zoom - 1) * (size[1] / 2, size[0] / 2)
    return [
        f"zoom {zoom:.3f}",
        f"angle {drawn.angle_deg[0]:+.2f} deg",
        f"shift {shift[0]:+.2f} {shift[1]:+.2f} ({right:+.1f} {down:+.1f} px)",
        "mirrored" if drawn.flipped[0] else "not mirrored",
        "gains " + " ".join(f"{gain:.2f}" for gain in drawn.gains[0]),
    ]


# ---------------------------------------------------------------------------- the picture

VALID: Final = "valid"
"""The last row."""
ALL, SOME, NONE = (198, 226, 203), (240, 180, 70), (64, 64, 72)
"""Colours of a pixel that is trained on by all targets, by some, by none."""
_TILE_PX: Final = 200
_GAP_PX: Final = 10
_LINE_PX: Final = 17
_LABELS_PX: Final = 64
_PAPER, _INK, _FAINT = (255, 255, 255), (30, 30, 34), (120, 120, 128)
_OUTLINES: Final = ((232, 60, 60), (40, 120, 240), (30, 170, 80), (240, 150, 20), (160, 70, 210))


class PictureColumn(NamedTuple):
    """A column of the picture: uint8 [h, w, 3] tiles by the names of rows, and what it says."""

    title: str
    lines: list[str]
    tiles: dict[str, np.ndarray]
    colour: tuple[int, int, int] = _INK


def stored_tiles(
    sample: StoredSample, view: View, targets: Mapping[str, Target]
) -> dict[str, np.ndarray]:
    """The tiles of a sample as it is stored; what is not known of it is grey."""
    images, stored = {name: sample.fields[name] for name in view.normalisations}, _stored(sample)
    truths = {name: target.truth(stored[name]) for name, target in targets.items()}
    return _tiles(images, truths, targets)


def seen_tiles(
    seen: ShownSample, view: View, targets: Mapping[str, Target]
) -> dict[str, np.ndarray]:
    """The tiles of what networks got: images with their normalisation undone; what is not trained
    on is grey."""
    images = {name: _undone(picture, view, name) for name, picture in seen.images.items()}
    return _tiles(images, seen.truths, targets)


def _tiles(
    images: Mapping[str, np.ndarray], truths: Mapping[str, Truth], targets: Mapping[str, Target]
) -> dict[str, np.ndarray]:
    tiles, valid = dict(images), []
    for name, target in targets.items():
        known = truths[name].known[0, 0].numpy()
        tiles[name] = target.colour(truths[name].wanted[0].numpy(), known)
        valid.append(known)
    if valid:
        colours = np.array((NONE, SOME, ALL), np.uint8)
        tiles[VALID] = colours[np.any(valid, 0).astype(int) + np.all(valid, 0)]
    return tiles


def augmentation_picture(
    sample: StoredSample, sights: list[ShownSample], view: View, targets: Mapping[str, Target]
) -> np.ndarray:
    """uint8 [height, width, 3]: a column as stored and one for each epoch, under what was drawn.

    Pixels are magnified by a whole factor. The outlines in the first stored image are what the
    epoch of that colour saw of it.
    """
    height, width = sample.size
    factor = max(1, -(-_TILE_PX // width))
    columns = [
        PictureColumn("as stored", [f"{height} x {width}"], stored_tiles(sample, view, targets))
    ]
    for index, one in enumerate(sights):
        lines = augmentation_words(one.drawn, (height, width))
        tiles = seen_tiles(one, view, targets)
        columns.append(
            PictureColumn(f"epoch {one.epoch}", lines, tiles, _OUTLINES[index % len(_OUTLINES)])
        )
    rows = list(columns[0].tiles)
    step_x, step_y = width * factor + _GAP_PX, height * factor + _GAP_PX
    top = 2 * _GAP_PX + _LINE_PX * (3 + max(len(column.lines) for column in columns))
    size = (_LABELS_PX + step_x * len(columns), top + step_y * len(rows) + 2 * _LINE_PX + _GAP_PX)
    canvas = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_GAP_PX, _GAP_PX), sample.key, _INK, _font(16))
    for index, column in enumerate(columns):
        left = _LABELS_PX + index * step_x
        _write_head(draw, column, left, _GAP_PX + 2 * _LINE_PX)
        for row, tile in enumerate(column.tiles.values()):
            large = Image.fromarray(tile.repeat(factor, 0).repeat(factor, 1))
            if index == row == 0:
                _draw_outlines(large, columns[1:], sights)
            canvas.paste(large, (left, top + row * step_y))
    for row, name in enumerate(rows):
        draw.text((_GAP_PX, top + row * step_y + height * factor // 2 - 8), name, _INK, _font(13))
    _write_legend(draw, top + step_y * len(rows))
    return np.asarray(canvas)


def _draw_outlines(
    picture: Image.Image, columns: list[PictureColumn], sights: list[ShownSample]
) -> None:
    draw = ImageDraw.Draw(picture)
    for column, one in zip(columns, sights, strict=True):
        corners = _corners(one.drawn, picture.height, picture.width)
        draw.line([tuple(corner) for corner in corners.tolist()], column.colour, 2)


def _corners(drawn: Drawn, height: int, width: int) -> np.ndarray:
    """float64 [5, 2]: pixels (x, y) of a stored picture at the corners of what was seen of it."""
    from wdtrain.learn.augment import affine

    square = np.array([(-1, -1, 1), (1, -1, 1), (1, 1, 1), (-1, 1, 1), (-1, -1, 1)], np.float64)
    where: np.ndarray = square @ affine(drawn, height, width)[0].numpy().T
    return (where + 1) / 2 * (width, height)


def _write_head(draw: ImageDraw.ImageDraw, column: PictureColumn, left: int, top: int) -> None:
    draw.text((left, top), column.title, column.colour, _font(15))
    for number, line in enumerate(column.lines, 1):
        draw.text((left, top + 4 + number * _LINE_PX), line, _FAINT, _font(12))


def _write_legend(draw: ImageDraw.ImageDraw, top: int) -> None:
    """What the colours mean, in two lines."""
    left: float = _LABELS_PX
    for colour, text in (
        (ALL, "trained on: all fields"),
        (SOME, "some"),
        (NONE, "none"),
    ):
        draw.rectangle((left, top + 2, left + 11, top + 13), colour, _FAINT)
        draw.text((left + 17, top), text, _FAINT, _font(12))
        left += 17 + draw.textlength(text, _font(12)) + 14
    text = "depth: near bright, far dark; grey: not trained on; outlines: what an epoch saw"
    draw.text((_LABELS_PX, top + _LINE_PX), text, _FAINT, _font(12))


def _font(size_px: int) -> Any:
    return ImageFont.load_default(size_px)
