"""What the `data` section of a recipe opens: a dataset, the order of a split, a stream of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wdtrain.config import DataSettings
from wdtrain.fields import register_all
from wdtrain.remote.remote_files import RemoteAccess
from wdtrain.settings import parse_bytes
from wdtrain.store.manifest import Manifest
from wdtrain.stream.cursor import Cursor
from wdtrain.stream.order import Order
from wdtrain.stream.reader import Stream, open_stream


def load_dataset(data: DataSettings, *, url: str | None = None) -> Manifest:
    """The dataset of a recipe, reached and kept as it says; url: where it is now, if not there.
    Kinds of fields that the recipe names are known from here on."""
    register_all(data.kinds)
    return Manifest.load(url or data.url, access=access_of(data))


def access_of(data: DataSettings) -> RemoteAccess:
    """How the dataset's files are reached, and kept here, where they are remote."""
    return RemoteAccess(cache_folder=data.cache, cache_bytes=parse_bytes(data.cache_bytes))


def order_of(data: DataSettings, manifest: Manifest, split: str | None = None) -> Order:
    """The order of a split, by default of that which is trained on."""
    return Order(
        manifest,
        split or data.train_split,
        seed=data.seed,
        lanes=data.lanes,
        chunk=data.chunk,
        shuffle_bytes=parse_bytes(data.shuffle_bytes),
    )


def stream_of(
    data: DataSettings,
    manifest: Manifest,
    split: str,
    batch_size: int,
    *,
    rank: int = 0,
    world: int = 1,
    size: tuple[int, int] | None = None,
    fields: Sequence[str] | None = None,
    cursor: Cursor | None = None,
    epochs: int | None = 1,
    shuffle_bytes: int | None = None,
    damaged: dict[str, str] | None = None,
    pin_memory: bool = False,
    give_up: Callable[[], bool] | None = None,
) -> Stream:
    """A stream as `open_stream` makes it. size, shuffle_bytes: in place of the recipe's."""
    return open_stream(
        manifest,
        split=split,
        batch_size=batch_size,
        seed=data.seed,
        rank=rank,
        world=world,
        threads=data.threads,
        cursor=cursor,
        epochs=epochs,
        size=size or data.size,
        fields=fields,
        lanes=data.lanes,
        chunk=data.chunk,
        shuffle_bytes=shuffle_bytes or parse_bytes(data.shuffle_bytes),
        on_damage=data.on_damage,
        damaged=damaged,
        pin_memory=pin_memory,
        give_up=give_up,
    )
