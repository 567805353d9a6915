"""`inspect-shards order`: which samples lie at which positions, or what a step of a run took.

Owns the question and the table. Places (shard, block, row) come from the order alone, a pure
function of the manifest; keys from the tar headers of the blocks named, and of no others. No
picture is decoded and no reader is started. Where a run is named and has a checkpoint, the cursor
in it proves that the order shown is the run's.
The surprise: steps are counted from 1, as in metrics.jsonl; positions and epochs from 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from wdtrain.commands.inspect_shuffle import show_shuffle
from wdtrain.commands.own_kinds import add_kinds, register_kinds
from wdtrain.commands.trust import add_trust, load_run_recipe
from wdtrain.config import DataSettings, Recipe, TrainSettings, load_recipe
from wdtrain.disk.failures import DamagedBlock, StoreError
from wdtrain.fields import register_all
from wdtrain.remote.access import is_url
from wdtrain.settings import parse_bytes
from wdtrain.store.foreign import open_shard
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import parse_block

if TYPE_CHECKING:  # importing the stream brings torch along, which the other actions do without
    from wdtrain.stream.order import Order

_EXAMPLES: Final = """\
examples:
  inspect-shards order shards/mine --position 1000 --count 32
  inspect-shards order shards/mine --seed 7 --batch-size 512 --step 1200
  inspect-shards order --run runs/mine --step 1200 --world 8 --rank 3   # what did rank 3 see?
  inspect-shards order --run runs/mine --step 1200 --world 8 --json | jq -r .key
  inspect-shards order shards/mine --position 0 --count 9 --places      # reads the manifest alone
  inspect-shards order shards/mine --shuffle --shuffle-bytes 256MiB     # how well it is mixed
  inspect-shards order --shuffle --config recipes/mine.yaml

Step S, counted from 1 as in metrics.jsonl, takes the positions from (S - 1) x batch size on; a rank
takes those whose lane is its own (lane mod world). The order is the same for any world. A damaged
block is named, its samples have no key, and the exit code is 1.
"""
_DEFAULTS: Final[dict[str, Any]] = {
    "split": DataSettings.model_fields["train_split"].default,
    "seed": DataSettings.model_fields["seed"].default,
    "lanes": DataSettings.model_fields["lanes"].default,
    "chunk": DataSettings.model_fields["chunk"].default,
    "shuffle_bytes": DataSettings.model_fields["shuffle_bytes"].default,
    "batch_size": TrainSettings.model_fields["batch_size"].default,
}
"""What a recipe that says nothing of it trains with."""
_KEPT_BLOCKS: Final = 4096
"""Blocks whose keys are kept while a table is printed: more than the windows of 800 lanes hold."""
_TEXTS: Final = ("shard", "key")


class StreamPlace(NamedTuple):
    """Where a sample is in the order and on disk; rank and key None where not known."""

    position: int
    epoch: int
    lane: int
    rank: int | None
    shard: str
    block: int
    row: int
    key: str | None


@dataclass(frozen=True)
class Question:
    """The positions [start, stop) of an order, of all ranks (None) or of one in a world."""

    title: str
    manifest: Manifest
    order: Order
    start: int
    stop: int
    rank: int | None
    world: int | None
    reads_keys: bool


# ---------------------------------------------------------------------------- what is asked


def add_order(actions: Any) -> None:
    """`order` is one of the actions of a parser's subparsers; its `act` takes the options."""
    text = "say which samples come at which positions, or which a training step took"
    action = actions.add_parser(
        "order",
        help=text,
        description=f"{text[0].upper()}{text[1:]}, without decoding a picture.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = action.add_argument
    add("target", metavar="TARGET", nargs="?", help="a dataset's folder or URL; or --run alone")
    add("--run", dest="run_folder", type=Path, metavar="FOLDER", help="take the dataset and the "
        "options of the order from this run's config.yaml")  # fmt: skip
    add_trust(action)
    which = action.add_mutually_exclusive_group(required=True)
    which.add_argument("--position", type=int, metavar="P", help="from this position on, from 0")
    which.add_argument("--step", type=int, metavar="S", help="this step, counted from 1")
    which.add_argument("--shuffle", action="store_true", help="say how often two samples stored "
        "in one block come in one norm group and in one batch, beside chance")  # fmt: skip
    add("--config", type=Path, metavar="FILE", help="take them from this recipe, where not given")
    add("--count", type=int, metavar="N", help="positions from P on; default 1")
    add("--rank", type=int, metavar="R", help="only what this rank took, of --world ranks")
    add("--world", type=int, metavar="W", help="say each sample's rank among so many")
    for name, kind, what in (
        ("split", str, "split"),
        ("seed", int, "data.seed of the recipe"),
        ("lanes", int, "data.lanes"),
        ("chunk", int, "data.chunk"),
        ("shuffle_bytes", str, "data.shuffle_bytes"),
        ("batch_size", int, "train.batch_size, over all ranks"),
    ):
        option, shown = (
            f"--{name.replace('_', '-')}",
            "N" if kind is int else "SIZE" if name == "shuffle_bytes" else "NAME",
        )
        add(option, type=kind, metavar=shown, help=f"{what}; default {_DEFAULTS[name]}")
    add("--places", action="store_true", help="leave keys out, and read nothing but the manifest")
    add("--json", action="store_true", help="one JSON object a line")
    add_kinds(action)
    action.set_defaults(act=show_order)


def show_order(options: argparse.Namespace) -> int:
    """Prints the places asked for; 1 if one is in a damaged block."""
    if options.shuffle:
        for name in ("count", "rank", "world"):
            if getattr(options, name) is not None:
                goes = "--position or --step" if name != "count" else "--position"
                raise ValueError(f"--{name} goes with {goes}; --shuffle counts over all of them")
        return show_shuffle(*_order_of(options), as_json=options.json)
    question = _question(options)
    keys = KeysOfBlocks(question.manifest, question.order.split)
    widths = _column_widths(question)
    if not options.json:
        print(question.title)
        print(_aligned({name: name for name in widths}, widths))
    for place in places(question, keys):
        values = {name: getattr(place, name) for name in widths}
        print(json.dumps(values) if options.json else _aligned(values, widths))
    for problem in keys.damaged.values():
        print(f"{problem}; its samples have no key here", file=sys.stderr)
    return 1 if keys.damaged else 0


def _question(options: argparse.Namespace) -> Question:
    """What the options ask; ValueError for what cannot be answered."""
    order, manifest, batch_size, recipe = _order_of(options)
    _check_ranks(options, order)
    if options.step is None:
        start, stop = _asked_positions(options)
    else:
        order.check_batch(batch_size, options.world or 1)
        last = None if recipe is None else recipe.total_steps(order.samples)
        start, stop = _positions_of_step(options, batch_size, last)
    names = [name for name in _DEFAULTS if name != "batch_size"]
    settings = ", ".join(f"{name} {getattr(order, name)}" for name in names)
    what = "" if options.step is None else f"step {options.step} of batches of {batch_size}: "
    title = f"{what}positions {start} to {stop - 1} of order {order.digest} ({settings})"
    rank, world = options.rank, options.world
    return Question(title, manifest, order, start, stop, rank, world, not options.places)


def _order_of(options: argparse.Namespace) -> tuple[Order, Manifest, int, Recipe | None]:
    """The order that is asked about, its dataset, the batch size, and the recipe if one is named;
    ValueError where they do not fit each other."""
    from wdtrain.stream.order import Order

    if options.run_folder is not None and options.config is not None:
        raise ValueError("--config and --run both name a recipe; leave out one of them")
    recipe = None if options.run_folder is None else _recipe(options)
    if options.config is not None:
        recipe = load_recipe(options.config, [])
    how = _DEFAULTS if recipe is None else _how(recipe)
    given = {name: getattr(options, name) for name in _DEFAULTS}
    how = {**how, **{name: value for name, value in given.items() if value is not None}}
    manifest = manifest_of(options, recipe)
    order = Order(
        manifest,
        how["split"],
        seed=how["seed"],
        lanes=how["lanes"],
        chunk=how["chunk"],
        shuffle_bytes=parse_bytes(how["shuffle_bytes"]),
    )
    if options.run_folder is not None:
        check_cursor(options.run_folder, order)
    return order, manifest, how["batch_size"], recipe


def _how(recipe: Recipe) -> dict[str, Any]:
    data = recipe.data
    return {
        "split": data.train_split,
        "seed": data.seed,
        "lanes": data.lanes,
        "chunk": data.chunk,
        "shuffle_bytes": data.shuffle_bytes,
        "batch_size": recipe.train.batch_size,
    }


def _recipe(options: argparse.Namespace) -> Recipe:
    """The recipe of the run that was named; ValueError if there is none, or for a second answer."""
    folder = options.run_folder
    recipe = load_run_recipe(folder, trust=options.trust)
    twice = [name for name in _DEFAULTS if getattr(options, name) is not None]
    if twice:
        flag = f"--{twice[0].replace('_', '-')}"
        raise ValueError(f"{flag} stands in the recipe of {folder} already; leave out one of them")
    return recipe


def manifest_of(options: argparse.Namespace, recipe: Recipe | None) -> Manifest:
    """The dataset named, or else the run's own."""
    register_kinds(options)
    if options.target is not None:
        register_all({} if recipe is None else recipe.data.kinds)
        return Manifest.load(options.target)
    if recipe is None:
        raise ValueError("neither a dataset nor --run is named; name TARGET, or the run's folder")
    from wdtrain.stream import load_dataset

    try:
        return load_dataset(recipe.data)
    except StoreError as error:
        if is_url(recipe.data.url) or Path(recipe.data.url).is_absolute():
            raise
        raise StoreError(
            f"{error}; the run's data.url counts from where it was started: go there, or name the "
            "dataset as TARGET"
        ) from error


def check_cursor(folder: Path, order: Order) -> None:
    """ValueError where the run's newest checkpoint was saved for another order than this."""
    from wdtrain.record.checkpoint import Checkpoints
    from wdtrain.stream.cursor import Cursor

    found = Checkpoints(folder / "checkpoints").latest()
    if found is None:
        return
    if "cursor" not in found.extra:
        raise ValueError(
            f"the newest checkpoint of {folder} holds no cursor, so it is none of a training; "
            "name the dataset as TARGET, and --position"
        )
    cursor = Cursor.loads(found.extra["cursor"])
    mine = Cursor.at(order, cursor.position)
    if cursor != mine:
        raise ValueError(
            f"the newest checkpoint of {folder} was saved for order {cursor.digest} (version "
            f"{cursor.version}), this one is {mine.digest} (version {mine.version}): what the run "
            "saw cannot be derived from it; name the dataset that it was trained on as TARGET, or "
            "use the version of wdtrain that trained it"
        )


def _check_ranks(options: argparse.Namespace, order: Order) -> None:
    if options.rank is not None and options.world is None:
        raise ValueError(f"--rank {options.rank} needs --world: the number of ranks there were")
    if options.world is not None:
        if options.world < 1:
            raise ValueError(f"--world {options.world}: at least 1 rank is needed")
        order.check_batch(order.chunk, options.world)
        if options.rank is not None and not 0 <= options.rank < options.world:
            raise ValueError(
                f"rank {options.rank} is not in a world of {options.world}; ranks count from 0"
            )


def _asked_positions(options: argparse.Namespace) -> tuple[int, int]:
    count = 1 if options.count is None else options.count
    if options.position < 0 or count < 1:
        raise ValueError(
            f"--position {options.position} --count {count}: positions count from 0, and at least "
            "1 is needed"
        )
    return options.position, options.position + count


def _positions_of_step(
    options: argparse.Namespace, batch_size: int, last: int | None
) -> tuple[int, int]:
    if options.count is not None:
        raise ValueError("--count goes with --position; a step takes one batch")
    if options.step < 1:
        raise ValueError(f"--step {options.step}: steps count from 1, as in metrics.jsonl")
    if last is not None and options.step > last:
        raise ValueError(f"--step {options.step} is beyond the run's end: its last step is {last}")
    return (options.step - 1) * batch_size, options.step * batch_size


# ---------------------------------------------------------------------------- what is answered


class KeysOfBlocks:
    """The keys of a split's blocks, each read, verified and its headers parsed when asked for.

    damaged: by (shard, block), what is wrong with those that have no keys.
    """

    def __init__(self, manifest: Manifest, split: str) -> None:
        self._manifest, self._shards = manifest, manifest.split(split).shards
        self.damaged: dict[tuple[int, int], str] = {}
        self.of = lru_cache(maxsize=_KEPT_BLOCKS)(self._read)

    def _read(self, shard: int, block: int) -> list[str] | None:
        """The keys in order, or None of a damaged block; StoreError if the shard is missing."""
        entry = self._shards[shard]
        with open_shard(self._manifest.shard_url(entry), entry, self._manifest) as reader:
            try:
                data = reader.read_block(block)
            except DamagedBlock as error:
                self.damaged[shard, block] = str(error)
                return None
        try:
            return parse_block(data, self._manifest).keys
        except StoreError as error:
            self.damaged[shard, block] = f"shard {entry.name}, block {block} is damaged: {error}"
            return None


def places(question: Question, keys: KeysOfBlocks) -> Iterator[StreamPlace]:
    """The places of a question's positions, in order; those of one rank if one was asked for."""
    order, world = question.order, question.world
    shards = question.manifest.split(order.split).shards
    for piece in order.pieces(question.start, question.stop):
        rank = None if world is None else piece.lane % world
        if question.rank is not None and rank != question.rank:
            continue
        position = piece.position
        for fragment in order.fragments(piece):
            numbers, rows = order.samples_of(fragment)
            found = (part.tolist() for part in (*order.shard_block(numbers), rows))
            for shard, block, row in zip(*found, strict=True):
                of_block = keys.of(shard, block) if question.reads_keys else None
                key = None if of_block is None else of_block[row]
                name = shards[shard].name
                yield StreamPlace(position, piece.epoch, piece.lane, rank, name, block, row, key)
                position += 1


def _column_widths(question: Question) -> dict[str, int]:
    """Characters of each column shown, from the bounds of what may stand in it: a line need not
    wait for those after it."""
    order, shards = question.order, question.manifest.split(question.order.split).shards
    block = question.manifest.samples_per_block
    largest: dict[str, Any] = {
        "position": question.stop,
        "epoch": question.stop // order.samples,
        "lane": order.lanes,
        "rank": question.world,
        "shard": max((shard.name for shard in shards), key=len),
        "block": max(shard.samples for shard in shards) // block,
        "row": block,
        "key": "",
    }
    if question.world is None:
        del largest["rank"]
    if not question.reads_keys:
        del largest["key"]
    return {name: max(len(name), len(str(value))) for name, value in largest.items()}


def _aligned(values: dict[str, Any], widths: dict[str, int]) -> str:
    """One line of columns: names to the left, numbers to the right, `-` for a key not known."""
    cells = {name: "-" if value is None else str(value) for name, value in values.items()}
    return "  ".join(
        cell.ljust(widths[name]) if name in _TEXTS else cell.rjust(widths[name])
        for name, cell in cells.items()
    ).rstrip()
