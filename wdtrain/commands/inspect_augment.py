"""`inspect-shards augment`: what the networks saw of a sample, epoch by epoch, as one picture.

Owns the question and the layout. What is seen is made by the code of training itself (`View`,
`Augmentation`): a function of the run's seed, the epoch and the key, so no checkpoint is needed.
The surprise: a dataset has no index of its keys, so the sample is looked for block by block.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wdtrain.commands.inspect_order import check_cursor, manifest_of
from wdtrain.commands.pack_shards import long_work
from wdtrain.commands.trust import add_trust, load_run_recipe
from wdtrain.config import AugmentSettings, DataSettings, Recipe, RunSettings, load_recipe
from wdtrain.disk.failures import StoreError
from wdtrain.fields.resize import network_size
from wdtrain.record.outputs import OVERWRITE_HELP, Outputs
from wdtrain.record.picture_grid import colour_depth, colour_mask, png_of
from wdtrain.remote.urls import redacted
from wdtrain.store.foreign import open_shard
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import AnyBlock, decode_row, parse_block
from wdtrain.store.version1 import depth_of

if TYPE_CHECKING:  # the networks' room brings torch along, which the other actions do without
    from wdtrain.learn.augment import Augmentation, Drawn
    from wdtrain.learn.view import View
    from wdtrain.targets.truth import TrainingInput

EXAMPLES: Final = """\
examples:
  inspect-shards augment --run runs/mine playground-000000017 --epoch 3
  inspect-shards augment --run runs/mine playground-000000017 --epoch 0,1,2,3 --out seen.png
  inspect-shards augment shards/mine playground-000000017 --epoch 0,1,2 --zoom 1.0 --seed 7

`inspect-shards order` prints the keys of a step. The picture has a column for what is stored and
one for each epoch; its rows are the overlay, the mask, the depth, and which pixels are trained on.
For each epoch a line says what was drawn: zoom; angle, clockwise; shift, to the right and down, as
a share of the room that the magnified picture leaves, and in pixels; whether it was mirrored; the
gains of red, green and blue. A GPU's pixels may differ from these in their last bits.

A dataset has no index of its keys: blocks are read, inflated and their headers parsed until the
sample is found, half the split on average (20,000 samples of 64 x 64: some tenths of a second), and
all of it for a key that it does not hold. No other sample is decoded.
"""
_AMOUNTS: Final = tuple(AugmentSettings.model_fields)
_GIVEN: Final = ("split", "seed", *_AMOUNTS)
"""Options that stand in a run's recipe."""
_NEAR_KEYS: Final = 3


class Sample(NamedTuple):
    """As read: overlay uint8 [h, w, 3], mask uint8 [h, w], depth uint8 or uint16 codes [h, w]."""

    key: str
    overlay: np.ndarray
    mask: np.ndarray
    depth: np.ndarray


@dataclass(frozen=True)
class ShownSample:
    """A sample in an epoch: what was drawn, and what networks of each target got (n = 1)."""

    epoch: int
    drawn: Drawn
    mask: TrainingInput
    depth: TrainingInput


# ---------------------------------------------------------------------------- what is asked


def add_augment(actions: Any) -> None:
    """`augment` is one of the actions of a parser's subparsers; its `act` takes the options."""
    text = "show what the networks saw of a sample in an epoch"
    action = actions.add_parser(
        "augment",
        usage="inspect-shards augment [TARGET] KEY --epoch N[,N...] [options]",
        help=text,
        description=f"{text[0].upper()}{text[1:]}, by the code of training.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = action.add_argument
    add("words", metavar="[TARGET] KEY", nargs="+", help="a dataset's folder or URL, needless "
        "where a run or recipe names it; the key of a sample")  # fmt: skip
    add("--epoch", required=True, metavar="N[,N...]", help="epochs, counted from 0")
    add("--out", type=Path, default=Path("augment.png"), metavar="FILE", help="default augment.png")
    add("--overwrite", action="store_true", help=OVERWRITE_HELP)
    where = action.add_mutually_exclusive_group()
    where.add_argument("--run", dest="run_folder", type=Path, metavar="FOLDER",
                       help="what this run saw, by its config.yaml")  # fmt: skip
    add_trust(action)
    where.add_argument("--config", type=Path, metavar="FILE", help="what this recipe would show")
    split = DataSettings.model_fields["train_split"].default
    add("--split", metavar="NAME", help=f"default: the recipe's, else {split}")
    seed = RunSettings.model_fields["seed"].default
    add("--seed", type=int, metavar="N", help=f"run.seed; default: the recipe's, else {seed}")
    for name in _AMOUNTS:
        default = AugmentSettings.model_fields[name].default
        text = f"augment.{name}; default: the recipe's, else {default}"
        add(f"--{name.replace('_', '-')}", type=float, metavar="X", help=text)
    action.set_defaults(act=show_augment)


def show_augment(options: argparse.Namespace) -> int:
    """Writes the picture and prints what was drawn."""
    from wdtrain.learn.view import plain_view

    recipe = _recipe(options)
    *target, options.key = options.words
    if len(target) > 1:
        raise ValueError(
            f"{' '.join(options.words)!r} is more than TARGET and KEY; name one sample"
        )
    options.target = target[0] if target else None
    out = Outputs.for_file(
        options.out, "inspect-shards augment", overwrite=options.overwrite, ending=".png"
    )
    manifest = manifest_of(options, recipe)
    data = DataSettings(url=manifest.url) if recipe is None else recipe.data
    split = options.split or data.train_split
    epochs = _epochs(options.epoch, None if options.run_folder is None else recipe, manifest)
    if options.run_folder is not None:
        _check_run(options.run_folder, data, manifest)
    mean, std = manifest.mean_and_std(manifest.image)
    view = plain_view(mean, std, depth_of(manifest.fields), "fp32").augmented(
        _augmentation(options, recipe)
    )
    sample = find_sample(manifest, split, options.key, size=data.size)
    sights = [see(sample, epoch, view) for epoch in epochs]
    picture = sheet(sample, sights, view)
    out.write(options.out.name, png_of(picture))
    for sight in sights:
        print(
            f"epoch {sight.epoch}: {', '.join(augmentation_words(sight.drawn, sample.mask.shape))}"
        )
    print(f"wrote {options.out} ({picture.shape[1]} x {picture.shape[0]})")
    return 0


def _recipe(options: argparse.Namespace) -> Recipe | None:
    """The recipe that was named, by its file or by a run; ValueError for a second answer to it."""
    folder = options.run_folder
    if folder is None:
        return None if options.config is None else load_recipe(options.config, [])
    recipe = load_run_recipe(folder, trust=options.trust)
    twice = [name for name in _GIVEN if getattr(options, name) is not None]
    if twice:
        raise ValueError(
            f"--{twice[0].replace('_', '-')} stands in the recipe of {folder} already, and what "
            "the run saw is asked; leave it out, or name the recipe by --config to try others"
        )
    return recipe


def _epochs(text: str, recipe: Recipe | None, manifest: Manifest) -> list[int]:
    """The epochs of "0,1,2"; ValueError for what is none, or none of the run of `recipe`."""
    try:
        epochs = [int(part) for part in text.split(",")]
    except ValueError:
        epochs = []
    if not epochs or min(epochs) < 0:
        raise ValueError(
            f"--epoch {text}: epochs are whole numbers from 0 on, with commas between; give for "
            "example 0 or 0,1,2"
        )
    if recipe is not None:
        samples = manifest.split(recipe.data.train_split).samples
        taken = recipe.total_steps(samples) * recipe.train.batch_size
        last = (taken - 1) // samples
        if max(epochs) > last:
            raise ValueError(
                f"--epoch {max(epochs)} is beyond the run's end: its last epoch is {last}"
            )
    return epochs


def _check_run(folder: Path, data: DataSettings, manifest: Manifest) -> None:
    """ValueError where the run's newest checkpoint tells that it was trained on another dataset."""
    from wdtrain.stream import order_of

    check_cursor(folder, order_of(data, manifest))


def _augmentation(options: argparse.Namespace, recipe: Recipe | None) -> Augmentation:
    from wdtrain.learn.augment import Augmentation

    asked = AugmentSettings() if recipe is None else recipe.augment
    seed = RunSettings.model_fields["seed"].default if recipe is None else recipe.run.seed
    given = {name: getattr(options, name) for name in ("seed", *_AMOUNTS)}
    given = {name: value for name, value in given.items() if value is not None}
    return Augmentation(**{"seed": seed, **asked.model_dump(), **given})


# ---------------------------------------------------------------------------- the sample


def find_sample(
    manifest: Manifest, split: str, key: str, *, size: int | tuple[int, int] | None = None
) -> Sample:
    """The sample of this key as a stream reads it at `size`, or as stored.

    StoreError with the most similar keys where the split holds none of it. Costs reading the split
    up to the sample.
    """
    read_at = network_size((manifest.height, manifest.width), size)
    near: list[str] = []
    damaged: list[str] = []
    total, done = manifest.split(split).samples, 0
    with long_work(f"looking for {key}") as progress:
        for block in _blocks(manifest, split, damaged):
            if key in block.keys:
                return Sample(key, *decode_row(block, block.keys.index(key), size=read_at).values())
            near = heapq.nlargest(_NEAR_KEYS, [*near, *block.keys], lambda one: _likeness(one, key))
            progress(done := done + block.num_samples, total)
    others = [name for name in manifest.splits if name != split]
    raise StoreError(
        f"split {split} of {redacted(manifest.url)} holds no sample {key!r}; most like it are "
        f"{', '.join(near) or 'none'}; inspect-shards order prints keys"
        + (f"; other splits (--split) are {', '.join(others)}" if others else "")
        + "".join(f"; {problem}, so it was not looked into" for problem in damaged[:1])
    )


def _blocks(manifest: Manifest, split: str, damaged: list[str]) -> Iterator[AnyBlock]:
    """The blocks of a split that are whole; of the others `damaged` learns what is wrong."""
    for shard in manifest.split(split).shards:
        with open_shard(manifest.shard_url(shard), shard, manifest) as reader:
            for number in range(reader.num_blocks):
                try:
                    yield parse_block(reader.read_block(number), manifest)
                except StoreError as error:
                    damaged.append(str(error))


def _likeness(one: str, other: str) -> int:
    """Characters that two keys share at their beginnings and ends."""
    return _shared(one, other) + _shared(one[::-1], other[::-1])


def _shared(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


# ---------------------------------------------------------------------------- what is seen


def see(sample: Sample, epoch: int, view: View) -> ShownSample:
    """What training makes of the sample in this epoch, on the CPU."""
    import torch

    from wdtrain.learn.rows import Rows

    arrays = (sample.overlay.transpose(2, 0, 1), sample.mask[None], sample.depth[None])
    overlay, mask, depth = (torch.from_numpy(np.array(array))[None] for array in arrays)
    rows = Rows(
        overlay=overlay,
        mask=mask,
        depth=depth,
        keys=[sample.key],
        epochs=[epoch],
        groups=[1],
        group_ids=[0],
    )
    assert view.augmentation is not None, "there is nothing to show without augmentation"
    return ShownSample(
        epoch,
        view.augmentation.draw(rows.keys, rows.epochs),
        view.prepare(overlay, mask, "mask", rows),
        view.prepare(overlay, depth, "depth", rows),
    )


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

ROWS: Final = ("overlay", "mask", "depth", "valid")
BOTH, MASK_ALONE, NEITHER = (198, 226, 203), (240, 180, 70), (64, 64, 72)
"""Colours of a pixel that is trained on by both targets, by the mask's alone, by neither."""
_TILE_PX: Final = 200
_GAP_PX: Final = 10
_LINE_PX: Final = 17
_LABELS_PX: Final = 64
_PAPER, _INK, _FAINT = (255, 255, 255), (30, 30, 34), (120, 120, 128)
_OUTLINES: Final = ((232, 60, 60), (40, 120, 240), (30, 170, 80), (240, 150, 20), (160, 70, 210))


class Column(NamedTuple):
    """A column of the picture: uint8 [h, w, 3] tiles in the order of `ROWS`, and what it says."""

    title: str
    lines: list[str]
    tiles: list[np.ndarray]
    colour: tuple[int, int, int] = _INK


def stored_tiles(sample: Sample, view: View) -> list[np.ndarray]:
    """The tiles of a sample as it is stored: alpha from black to white, unknown depth grey."""
    known = sample.depth > 0
    unit = np.where(known, view.depth_format.to_unit(sample.depth.astype(np.float32)), np.nan)
    valid = _valid(np.ones_like(known), known)
    return [sample.overlay, colour_mask(sample.mask / 255), colour_depth(unit), valid]


def seen_tiles(seen: ShownSample, view: View) -> list[np.ndarray]:
    """The tiles of what networks got: the overlay with its normalisation undone; what is not
    trained on is grey."""
    mean, std = (np.array(v, np.float32) for v in (view.normalisation.mean, view.normalisation.std))
    overlay = seen.mask.picture[0].permute(1, 2, 0).numpy() * std + mean
    mask_valid, depth_valid = (one.valid[0, 0].numpy() > 0 for one in (seen.mask, seen.depth))
    mask = np.where(mask_valid, seen.mask.target[0, 0].numpy(), np.nan)
    depth = np.where(depth_valid, seen.depth.target[0, 0].numpy(), np.nan)
    rgb = np.rint(overlay.clip(0, 1) * 255).astype(np.uint8)
    return [rgb, colour_mask(mask), colour_depth(depth), _valid(mask_valid, depth_valid)]


def _valid(mask: np.ndarray, depth: np.ndarray) -> np.ndarray:
    colours = np.array((NEITHER, MASK_ALONE, BOTH), np.uint8)
    tile: np.ndarray = colours[mask.astype(int) + (mask & depth)]
    return tile


def sheet(sample: Sample, sights: list[ShownSample], view: View) -> np.ndarray:
    """uint8 [height, width, 3]: a column as stored and one for each epoch, under what was drawn.

    Pixels are magnified by a whole factor. The outlines in the stored overlay are what the epoch of
    that colour saw of it.
    """
    height, width = sample.mask.shape
    factor = max(1, -(-_TILE_PX // width))
    columns = [Column("as stored", [f"{height} x {width}"], stored_tiles(sample, view))]
    for index, one in enumerate(sights):
        lines, tiles = augmentation_words(one.drawn, (height, width)), seen_tiles(one, view)
        columns.append(
            Column(f"epoch {one.epoch}", lines, tiles, _OUTLINES[index % len(_OUTLINES)])
        )
    step_x, step_y = width * factor + _GAP_PX, height * factor + _GAP_PX
    top = 2 * _GAP_PX + _LINE_PX * (3 + max(len(column.lines) for column in columns))
    size = (_LABELS_PX + step_x * len(columns), top + step_y * len(ROWS) + 2 * _LINE_PX + _GAP_PX)
    canvas = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_GAP_PX, _GAP_PX), sample.key, _INK, _font(16))
    for index, column in enumerate(columns):
        left = _LABELS_PX + index * step_x
        _write_head(draw, column, left, _GAP_PX + 2 * _LINE_PX)
        for row, tile in enumerate(column.tiles):
            large = Image.fromarray(tile.repeat(factor, 0).repeat(factor, 1))
            if index == row == 0:
                _draw_outlines(large, columns[1:], sights)
            canvas.paste(large, (left, top + row * step_y))
    for row, name in enumerate(ROWS):
        draw.text((_GAP_PX, top + row * step_y + height * factor // 2 - 8), name, _INK, _font(13))
    _write_legend(draw, top + step_y * len(ROWS))
    return np.asarray(canvas)


def _draw_outlines(picture: Image.Image, columns: list[Column], sights: list[ShownSample]) -> None:
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


def _write_head(draw: ImageDraw.ImageDraw, column: Column, left: int, top: int) -> None:
    draw.text((left, top), column.title, column.colour, _font(15))
    for number, line in enumerate(column.lines, 1):
        draw.text((left, top + 4 + number * _LINE_PX), line, _FAINT, _font(12))


def _write_legend(draw: ImageDraw.ImageDraw, top: int) -> None:
    """What the colours mean, in two lines."""
    left: float = _LABELS_PX
    for colour, text in (
        (BOTH, "trained on: mask and depth"),
        (MASK_ALONE, "mask alone"),
        (NEITHER, "neither"),
    ):
        draw.rectangle((left, top + 2, left + 11, top + 13), colour, _FAINT)
        draw.text((left + 17, top), text, _FAINT, _font(12))
        left += 17 + draw.textlength(text, _font(12)) + 14
    text = "depth: near bright, far dark; grey: not trained on; outlines: what an epoch saw"
    draw.text((_LABELS_PX, top + _LINE_PX), text, _FAINT, _font(12))


def _font(size_px: int) -> Any:
    return ImageFont.load_default(size_px)
