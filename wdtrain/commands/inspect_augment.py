"""`inspect-shards augment`: what the networks saw of a sample, epoch by epoch, as one picture.

Owns the question and the layout. What is seen is made by the code of training itself (`View`,
`Augmentation`): a function of the run's seed, the epoch and the key, so no checkpoint is needed.
The surprise: a dataset has no index of its keys, so the sample is looked for block by block.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from wdtrain.commands.augment_picture import (
    PlaceInBatch,
    StoredSample,
    augmentation_picture,
    augmentation_words,
    see,
)
from wdtrain.commands.inspect_order import check_cursor, manifest_of
from wdtrain.commands.own_kinds import add_kinds
from wdtrain.commands.pack_shards import long_work
from wdtrain.commands.trust import add_trust, load_run_recipe
from wdtrain.config import AugmentSettings, DataSettings, Recipe, RunSettings, load_recipe
from wdtrain.disk.failures import StoreError
from wdtrain.fields import ImageField
from wdtrain.fields.resize import network_size
from wdtrain.record.outputs import OVERWRITE_HELP, Outputs
from wdtrain.record.picture_grid import png_of
from wdtrain.remote.urls import redacted
from wdtrain.store.foreign import open_shard
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import AnyBlock, decode_row, parse_block

if TYPE_CHECKING:  # these rooms bring torch along, which the other actions do without
    from wdtrain.learn.augment import Augmentation
    from wdtrain.stream import Order
    from wdtrain.targets import Target

_EXAMPLES: Final = """\
examples:
  inspect-shards augment --run runs/mine playground-000000017 --epoch 3
  inspect-shards augment --run runs/mine playground-000000017 --epoch 0,1,2,3 --out seen.png
  inspect-shards augment shards/mine playground-000000017 --epoch 0,1,2 --zoom 1.0 --seed 7

`inspect-shards order` prints the keys of a step. The picture has a column for what is stored and
one for each epoch; its rows are the dataset's images, what may be learned of them (masks, classes,
depth), and which pixels are trained on.
For each epoch a line says what was drawn: zoom; angle, clockwise; shift, to the right and down, as
a share of the room that the magnified picture leaves, and in pixels; whether it was mirrored; the
gains of red, green and blue. A GPU's pixels may differ from these in their last bits.

A dataset has no index of its keys: blocks are read, inflated and their headers parsed until the
sample is found, half the split on average (20,000 samples of 64 x 64: some tenths of a second), and
all of it for a key that it does not hold. No other sample is decoded.
"""
_AMOUNTS: Final = tuple(name for name in AugmentSettings.model_fields if name != "image")
_GIVEN: Final = ("split", "seed", *_AMOUNTS)
"""Options that stand in a run's recipe."""
_NEAR_KEYS: Final = 3


# ---------------------------------------------------------------------------- what is asked


def add_augment(actions: Any) -> None:
    """`augment` is one of the actions of a parser's subparsers; its `act` takes the options."""
    text = "show what the networks saw of a sample in an epoch"
    action = actions.add_parser(
        "augment",
        usage="inspect-shards augment [TARGET] KEY --epoch N[,N...] [options]",
        help=text,
        description=f"{text[0].upper()}{text[1:]}, by the code of training.",
        epilog=_EXAMPLES,
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
    add_kinds(action)
    action.set_defaults(act=show_augment)


def show_augment(options: argparse.Namespace) -> int:
    """Writes the picture and prints what was drawn."""
    from wdtrain.learn.view import plain_view
    from wdtrain.stream import order_of

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
    images = [name for name, field in manifest.fields.items() if isinstance(field, ImageField)]
    view = plain_view(manifest, images, "fp32").augmented(_augmentation(options, recipe))
    targets = _targets(manifest, recipe)
    sample = find_sample(manifest, split, options.key, size=data.size)
    places = [PlaceInBatch.alone(epoch) for epoch in epochs]
    if recipe is not None and recipe.augment.image:
        order = order_of(data, manifest, split)
        places = [find_place(order, epoch, sample, recipe) for epoch in epochs]
    sights = [see(sample, place, view, targets) for place in places]
    picture = augmentation_picture(sample, sights, view, targets)
    out.write(options.out.name, png_of(picture))
    for sight in sights:
        print(f"epoch {sight.epoch}: {', '.join(augmentation_words(sight.drawn, sample.size))}")
    print(f"wrote {options.out} ({picture.shape[1]} x {picture.shape[0]})")
    return 0


def _targets(manifest: Manifest, recipe: Recipe | None) -> dict[str, Target]:
    """What may be learned of the dataset, by field."""
    from wdtrain.targets import TARGETS, target_of

    own = {} if recipe is None else recipe.targets
    fields = manifest.fields.values()
    known = [field for field in fields if field.kind in TARGETS or field.kind in own]
    return {field.name: target_of(field, own) for field in known}


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
    """ValueError where the run's newest checkpoint was trained on another dataset."""
    from wdtrain.stream import order_of

    check_cursor(folder, order_of(data, manifest))


def _augmentation(options: argparse.Namespace, recipe: Recipe | None) -> Augmentation:
    from wdtrain.learn.augment import augmentation_of

    asked = AugmentSettings() if recipe is None else recipe.augment
    seed = RunSettings.model_fields["seed"].default if recipe is None else recipe.run.seed
    given = {name: getattr(options, name) for name in ("seed", *_AMOUNTS)}
    given = {name: value for name, value in given.items() if value is not None}
    return replace(augmentation_of(asked, seed=seed), **given)


# ---------------------------------------------------------------------------- the sample


def find_sample(
    manifest: Manifest, split: str, key: str, *, size: int | tuple[int, int] | None = None
) -> StoredSample:
    """The sample of this key as a stream reads it at `size`, or as stored.

    StoreError with the most similar keys where the split holds none of it. Costs reading the split
    up to the sample.
    """
    read_at = network_size((manifest.height, manifest.width), size)
    near: list[str] = []
    damaged: list[str] = []
    total, done = manifest.split(split).samples, 0
    with long_work(f"looking for {key}") as progress:
        for at, block in _blocks(manifest, split, damaged):
            if key in block.keys:
                row = block.keys.index(key)
                return StoredSample(key, decode_row(block, row, size=read_at), (*at, row))
            near = heapq.nlargest(_NEAR_KEYS, [*near, *block.keys], lambda one: _likeness(one, key))
            progress(done := done + block.num_samples, total)
    others = [name for name in manifest.splits if name != split]
    raise StoreError(
        f"split {split} of {redacted(manifest.url)} holds no sample {key!r}; most like it are "
        f"{', '.join(near) or 'none'}; inspect-shards order prints keys"
        + (f"; other splits (--split) are {', '.join(others)}" if others else "")
        + "".join(f"; {problem}, so it was not looked into" for problem in damaged[:1])
    )


def find_place(order: Order, epoch: int, sample: StoredSample, recipe: Recipe) -> PlaceInBatch:
    """Where a sample stands in an epoch: found by going through it. Where damaged samples were left
    out, those after them in a chunk stood further ahead."""
    begin = epoch * order.samples
    for piece in order.pieces(begin, begin + order.samples):
        at = piece.position
        for fragment in order.fragments(piece):
            blocks, rows = order.samples_of(fragment)
            where = np.stack([*order.shard_block(blocks), rows], 1)
            found = np.flatnonzero((where == sample.place).all(1))
            if len(found):
                return _place_of(order, at + int(found[0]), recipe)
            at += len(rows)
    raise AssertionError("an epoch holds every sample")


def _place_of(order: Order, position: int, recipe: Recipe) -> PlaceInBatch:
    """The epoch and norm group of a position, and which of the group's rows it is: what of a chunk
    is in one batch is cut into groups."""
    epoch, batch_size = position // order.samples, recipe.train.batch_size
    batch = position // batch_size * batch_size
    piece = next(
        piece
        for piece in order.pieces(batch, batch + batch_size)
        if piece.position <= position < piece.position + piece.rows
    )
    row = (position - piece.position) % recipe.norm_group
    rows = min(recipe.norm_group, piece.position + piece.rows - (position - row))
    return PlaceInBatch(epoch=epoch, row=row, rows=rows, group_id=position - row)


def _blocks(
    manifest: Manifest, split: str, damaged: list[str]
) -> Iterator[tuple[tuple[int, int], AnyBlock]]:
    """The blocks of a split that are whole, each with the numbers of its shard and of itself; of
    the others `damaged` learns what is wrong."""
    for at, shard in enumerate(manifest.split(split).shards):
        with open_shard(manifest.shard_url(shard), shard, manifest) as reader:
            for number in range(reader.num_blocks):
                try:
                    yield (at, number), parse_block(reader.read_block(number), manifest)
                except StoreError as error:
                    damaged.append(str(error))


def _likeness(one: str, other: str) -> int:
    """Characters that two keys share at their beginnings and ends."""
    return _shared(one, other) + _shared(one[::-1], other[::-1])


def _shared(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
