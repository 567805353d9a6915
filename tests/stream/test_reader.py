"""The laws of the stream, over real packed datasets."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
import torch

from tests.laws import check_each_once, check_resumes_everywhere
from tests.noise import NoiseSource
from wdtrain.disk.failures import StoreError
from wdtrain.packing.pack import pack
from wdtrain.store.manifest import Manifest
from wdtrain.store.shards import ShardReader
from wdtrain.stream import Batch, Cursor, Stream, open_stream, reader
from wdtrain.stream.reader import Damaged

Packed = Callable[..., Manifest]
ENCODINGS = [("image", "zstd:3"), ("raw", "zstd:3"), ("image", "none"), ("raw", "none")]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    made: dict[Any, Manifest] = {}

    def make(encoding: str = "image", compression: str = "zstd:3", count: int = 333) -> Manifest:
        key = (encoding, compression, count)
        if key not in made:
            made[key] = pack(
                NoiseSource(count),
                str(tmp_path_factory.mktemp("packed") / "data"),
                encoding=encoding,
                compression=compression,
                processes=1,
                shard_samples=100,
            )
        return made[key]

    return make


def read(manifest: Manifest, **options: Any) -> list[Batch]:
    arguments = {"split": "train", "batch_size": 32, "seed": 5, "lanes": 6, "chunk": 8, **options}
    return list(open_stream(manifest, **arguments))


def keys_of(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def in_order(batches: list[Batch]) -> list[str]:
    """The keys of several ranks' batches, put back in the order of the whole job."""
    placed = [
        (int(position), key)
        for batch in batches
        for position, key in zip(batch.positions, batch.keys, strict=True)
    ]
    return [key for _, key in sorted(placed)]


@pytest.mark.parametrize(("encoding", "compression"), ENCODINGS)
def test_batches_hold_the_pixels_that_were_packed(
    packed: Packed, encoding: str, compression: str
) -> None:
    manifest = packed(encoding, compression)
    source = NoiseSource(333)
    for batch in read(manifest):
        for row, key in enumerate(batch.keys):
            triple = source.load(source.index_of(key))
            assert np.array_equal(batch["mask"][row, 0].numpy(), triple.arrays["mask"])
            assert np.array_equal(batch["depth"][row, 0].numpy(), triple.arrays["depth"])
            overlay = batch["overlay"][row].permute(1, 2, 0).numpy().astype(int)
            tolerance = 0 if encoding == "raw" else 40  # JPEG of noise-free ramps
            assert np.abs(overlay - triple.arrays["overlay"]).max() <= tolerance


def test_a_batch_is_uint8_in_channels_last_memory_with_its_cursor(packed: Packed) -> None:
    batch = read(packed())[0]
    height, width = packed().height, packed().width
    assert batch["overlay"].shape == (32, 3, height, width)
    assert batch["overlay"].dtype == batch["mask"].dtype == batch["depth"].dtype == torch.uint8
    assert batch["overlay"].is_contiguous(memory_format=torch.channels_last)
    assert batch["mask"].shape == batch["depth"].shape == (32, 1, height, width)
    assert sum(batch.chunks) == len(batch) == len(batch.positions) == 32
    assert batch.cursor.position == 32


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_each_sample_comes_once_an_epoch_over_all_ranks(
    packed: Packed, world: int, epochs: int
) -> None:
    manifest = packed()
    ranks = [read(manifest, rank=rank, world=world, epochs=epochs) for rank in range(world)]
    stored = keys_of(read(manifest))
    assert len(set(stored)) == manifest.splits["train"].samples
    check_each_once([key for batches in ranks for key in keys_of(batches)], stored * epochs)
    assert len({len(batches) for batches in ranks}) == 1  # the same number of steps
    cursors = [[batch.cursor for batch in batches] for batches in ranks]
    assert all(own == cursors[0] for own in cursors)


def test_the_order_does_not_depend_on_world_batch_size_or_threads(packed: Packed) -> None:
    manifest = packed()
    plain = in_order(read(manifest, epochs=2))
    for options in ({"batch_size": 8}, {"batch_size": 200}, {"threads": 1}, {"threads": 5}):
        assert in_order(read(manifest, epochs=2, **options)) == plain
    for world in (2, 5):
        parts = [read(manifest, epochs=2, rank=rank, world=world) for rank in range(world)]
        assert in_order([batch for part in parts for batch in part]) == plain


def test_resumes_exactly_at_every_batch(packed: Packed) -> None:
    manifest = packed()
    whole = read(manifest, epochs=2)
    cursors = [Cursor(0, whole[0].cursor.samples, whole[0].cursor.digest)]
    cursors += [batch.cursor for batch in whole]

    def resumed_at(number: int) -> list[list[str]]:
        cursor = Cursor.loads(cursors[number].dumps())
        return [batch.keys for batch in read(manifest, epochs=2, cursor=cursor)]

    check_resumes_everywhere([batch.keys for batch in whole], resumed_at, range(len(whole) + 1))


def test_resumes_under_another_world(packed: Packed) -> None:
    manifest = packed()
    whole = read(manifest, epochs=2)
    rest = in_order(whole[4:])
    for world in (3, 5):
        parts = [
            read(manifest, epochs=2, cursor=whole[3].cursor, rank=rank, world=world)
            for rank in range(world)
        ]
        assert in_order([batch for part in parts for batch in part]) == rest


def test_prefetching_does_not_move_the_cursor_of_what_was_taken(packed: Packed) -> None:
    batches = iter(open_stream(packed(), split="train", batch_size=32, seed=5, lanes=6, chunk=8))
    assert [next(batches).cursor.position for _ in range(3)] == [32, 64, 96]


def test_a_small_rank_share_may_be_empty(packed: Packed) -> None:
    batches = read(packed(), batch_size=8, world=6, rank=3)
    assert {len(batch) for batch in batches} >= {0, 8}
    empty = next(batch for batch in batches if not len(batch))
    assert empty["overlay"].shape == (0, 3, packed().height, packed().width)


def test_reads_at_another_size(packed: Packed) -> None:
    manifest = packed()
    stored = manifest.height, manifest.width
    for size, shape in ((18, (18, 18)), ((16, 20), (16, 20)), (None, stored)):
        batch = read(manifest, size=size)[0]
        assert batch["overlay"].shape == (32, 3, *shape)
        assert batch["depth"].shape == (32, 1, *shape)


@pytest.mark.parametrize("size", [0, -3, (0, 5), "16", True])
def test_a_size_that_cannot_be_is_refused_by_name(packed: Packed, size: Any) -> None:
    with pytest.raises(ValueError, match="size is"):
        read(packed(), size=size)


def damage(manifest: Manifest, folder: Path, *, missing: bool = False) -> str:
    """A copy of the dataset with a byte of its first train shard's first block flipped."""
    folder.mkdir()
    source = Path(manifest.url)
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    shard = folder / manifest.splits["train"].shards[0].name
    data = bytearray(shard.read_bytes())
    data[200] ^= 0x10
    shard.write_bytes(bytes(data))
    if missing:
        shard.unlink()
    return str(folder)


@pytest.mark.parametrize(("encoding", "compression"), ENCODINGS)
def test_a_flipped_byte_is_found_and_named(
    packed: Packed, tmp_path: Path, encoding: str, compression: str
) -> None:
    url = damage(packed(encoding, compression), tmp_path / "bad")
    with pytest.raises(Damaged, match=r"shard train-000000\.tar\S*, block 0 is damaged"):
        read(Manifest.load(url))


@pytest.mark.parametrize(("encoding", "compression"), [("raw", "none"), ("image", "none")])
def test_every_block_is_verified_at_its_first_touch_and_left_out_in_each_epoch(
    packed: Packed, tmp_path: Path, encoding: str, compression: str
) -> None:
    manifest = packed(encoding, compression)
    folder = shutil.copytree(manifest.url, tmp_path / "bad")
    entry = manifest.splits["train"].shards[0]
    content = bytearray((folder / entry.name).read_bytes())
    for block in entry.blocks[::2]:
        content[block.offset + block.num_bytes - 700] ^= 1  # in the last depth, or its padding
    (folder / entry.name).write_bytes(content)
    stream = open_stream(
        str(folder), split="train", batch_size=32, seed=5, lanes=6, chunk=8, on_damage="skip"
    )
    numbers = range(0, len(entry.blocks), 2)
    with ShardReader(manifest.shard_url(entry), entry, manifest) as reader:
        lost = sum(reader.block_samples(number) for number in numbers)
    for _ in range(2):
        assert sum(map(len, stream)) == manifest.splits["train"].samples - lost
    assert set(stream.damaged) == {f"shard {entry.name}, block {number}" for number in numbers}


def test_what_is_left_out_has_no_row_and_the_others_keep_their_positions(
    packed: Packed, tmp_path: Path
) -> None:
    manifest = packed()
    whole = read(manifest)
    stream = open_stream(
        damage(manifest, tmp_path / "bad"),
        split="train", batch_size=32, seed=5, lanes=6, chunk=8, on_damage="skip",
    )  # fmt: skip
    rest = list(stream)
    assert [batch.cursor for batch in rest] == [batch.cursor for batch in whole]
    placed = {int(p): k for b in whole for p, k in zip(b.positions, b.keys, strict=True)}
    kept = {int(p): k for b in rest for p, k in zip(b.positions, b.keys, strict=True)}
    assert len(kept) == len(placed) - manifest.samples_per_block
    assert kept.items() <= placed.items()
    for batch in rest:
        assert sum(batch.chunks) == len(batch) == len(batch["overlay"]) == len(batch["mask"])
    assert list(stream.damaged) == ["shard train-000000.tar.zst, block 0"]


@pytest.mark.parametrize("policy", ["fatal", "skip"])
@pytest.mark.parametrize(("compression", "name"), [("zstd:3", ".tar.zst"), ("none", ".tar")])
def test_a_missing_shard_stops_the_run_and_is_named(
    packed: Packed, tmp_path: Path, compression: str, name: str, policy: Any
) -> None:
    url = damage(packed("image", compression), tmp_path / "bad", missing=True)
    with pytest.raises(StoreError, match=f"train-000000{name} is missing"):
        read(Manifest.load(url), on_damage=policy)


def test_refuses_what_would_tear_groups_or_starve_ranks(packed: Packed) -> None:
    with pytest.raises(ValueError, match="batch size 20 is not a multiple of the chunk of 8"):
        read(packed(), batch_size=20)
    with pytest.raises(ValueError, match="7 ranks share 6 lanes"):
        read(packed(), world=7)
    other = read(packed(), seed=6)[0].cursor
    with pytest.raises(ValueError, match="cursor was saved for order"):
        read(packed(), cursor=other)


def test_stands_as_the_first_stage_of_a_webdataset_pipeline(packed: Packed) -> None:
    import webdataset as wds

    stream = open_stream(packed(), split="train", batch_size=32, seed=5, lanes=6, chunk=8)
    pipeline = wds.DataPipeline(stream, wds.map(lambda batch: batch.keys))
    assert list(pipeline) == [batch.keys for batch in read(packed())]


def test_refuses_the_workers_of_a_dataloader(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = open_stream(packed(), split="train", batch_size=32, seed=5, lanes=6, chunk=8)
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: "a worker's info")
    with pytest.raises(ValueError, match="use num_workers=0"):
        iter(stream)


def test_waiting_and_work_are_measured(packed: Packed) -> None:
    stream = open_stream(packed(), split="train", batch_size=32, seed=5, lanes=6, chunk=8)
    waited = sum(batch.wait_seconds for batch in stream)
    seconds = stream.stages.seconds()
    assert seconds["wait"] == pytest.approx(waited)
    assert all(seconds[stage] > 0 for stage in ("read", "parse", "decode"))


# ---------------------------------------------------------------------------- passes


def usual(manifest: Manifest, **options: Any) -> Stream:
    arguments = {"split": "train", "batch_size": 32, "seed": 5, "lanes": 6, "chunk": 8, **options}
    return open_stream(manifest, **arguments)


def test_each_pass_over_a_stream_goes_on_with_the_next_epoch(packed: Packed) -> None:
    whole = keys_of(read(packed(), epochs=3))
    stream = usual(packed())
    passes = [keys_of(list(stream)) for _ in range(3)]
    assert [key for one in passes for key in one] == whole
    assert passes[0] != passes[1]


@pytest.mark.parametrize("left_early", [False, True])
def test_blocks_of_a_split_that_fits_are_read_once_over_all_passes(
    packed: Packed, monkeypatch: pytest.MonkeyPatch, left_early: bool
) -> None:
    stream = usual(packed())
    assert stream.order.is_whole
    asked: list[int] = []
    load_all = stream.blocks.load_all
    monkeypatch.setattr(
        stream.blocks,
        "load_all",
        lambda wanted, ahead: (asked.extend(one.number for one in wanted), load_all(wanted, ahead)),
    )
    for _ in range(3):
        for _ in stream:
            if left_early:
                break
    # What was given up half-way is asked for again, and what was loaded is not.
    assert sorted(set(asked)) == list(range(stream.order.num_blocks))
    assert left_early or len(asked) == stream.order.num_blocks
    assert len(keys_of(list(stream))) == stream.order.samples


def test_passes_of_several_epochs_follow_each_other(packed: Packed) -> None:
    stream = usual(packed(), epochs=2)
    assert keys_of([*stream, *stream]) == keys_of(read(packed(), epochs=4))


def test_a_pass_that_is_left_early_is_followed_by_the_next_epoch(packed: Packed) -> None:
    stream, samples = usual(packed()), packed().splits["train"].samples
    iter(stream)  # nobody asks it for a batch: no pass
    for batch in stream:
        assert batch.epochs[0] == 0
        break
    assert next(iter(stream)).positions[0] == samples


@pytest.mark.parametrize("taken", [1, 4, 11])
def test_resumed_the_first_pass_ends_the_epoch_that_it_stands_in(
    packed: Packed, taken: int
) -> None:
    manifest = packed()
    whole, samples = read(manifest, epochs=4), manifest.splits["train"].samples
    second = [batch.cursor for batch in usual(manifest, epochs=4)][samples // 32 + taken]
    stream = usual(manifest, cursor=second)
    rest = [placed for batch in whole for placed in zip(batch.positions, batch.keys, strict=True)]
    for epoch in (second.epoch, second.epoch + 1):
        wanted = [k for p, k in rest if p // samples == epoch and p >= second.position]
        assert keys_of(list(stream)) == wanted


def test_resumed_at_an_epochs_end_the_next_epoch_comes_and_of_a_job_at_its_end_nothing(
    packed: Packed,
) -> None:
    manifest = packed()
    *_, last = usual(manifest)
    assert last.cursor.position == manifest.splits["train"].samples
    assert (
        keys_of(list(usual(manifest, cursor=last.cursor)))
        == keys_of([batch for batch in read(manifest, epochs=2) if batch.epochs[-1] == 1])[
            -manifest.splits["train"].samples :
        ]
    )
    *_, last = usual(manifest, epochs=2)
    assert list(usual(manifest, epochs=2, cursor=last.cursor)) == []


def test_a_stream_without_end_goes_on_after_the_last_batch_taken(packed: Packed) -> None:
    stream = usual(packed(), epochs=None)
    for _, batch in zip(range(3), stream, strict=False):
        position = batch.cursor.position
    assert next(iter(stream)).positions[0] == position


# ---------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("size", value) for value in (0, -3, (0, 5), (5,), "64", 1.5, True)),
        *(("threads", value) for value in (0, -1, 1.0, "2")),
        *(("epochs", value) for value in (0, -1, 0.5)),
        *(("seed", value) for value in (-1, "7", 1.5, None)),
        *((name, value) for name in ("lanes", "chunk", "shuffle_bytes") for value in (0, "8", 8.0)),
        *(("batch_size", value) for value in (0, -32, 32.0, None)),
        *(("world", value) for value in (0, -1, None)),
        *(("rank", value) for value in (-1, 1, "0")),
        ("on_damage", "ignore"),
        ("cursor", '{"position": 1}'),
        ("cursor", 64),
        ("split", "test"),
    ],
)
def test_an_argument_that_cannot_be_is_named(packed: Packed, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        usual(packed(), **{name: value})


# ---------------------------------------------------------------------------- waiting


class Late(Future[None]):
    """A task that ends in the moment in which the wait for it has timed out."""

    def result(self, timeout: float | None = None) -> None:
        try:
            super().result(timeout)
        except TimeoutError:
            self.set_result(None)
            raise

    def done(self) -> bool:
        if not super().done():
            self.set_result(None)
            return False
        return True


def test_a_wait_that_times_out_as_its_task_ends_is_no_error(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "PATIENCE_SECONDS", 0.01)
    reading = reader._Reading(usual(packed(), give_up=lambda: False), 0, None)
    task = Late()
    Timer(0.05, task.done).start()
    assert reading._wait_for(task)
    failed: Future[None] = Future()
    failed.set_exception(TimeoutError("of the task itself"))
    with pytest.raises(TimeoutError, match="of the task itself"):
        reading._wait_for(failed)
    giving_up = reader._Reading(usual(packed(), give_up=lambda: True), 0, None)
    assert not giving_up._wait_for(Future())
