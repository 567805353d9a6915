"""Loading many blocks at once stops before one that is not what was packed, and never hides it."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.store.blocks import SAMPLES, Samples, Written, block_of, inflated, same, samples_of
from wdtrain.disk.failures import StoreError
from wdtrain.store import frames, native
from wdtrain.store.buffers import Recycled
from wdtrain.store.loading import BlockLoader
from wdtrain.store.manifest import Manifest, Shard
from wdtrain.store.samples import parse_block
from wdtrain.store.shards import ShardReader

Packed = Callable[..., Manifest]

pytestmark = pytest.mark.skipif(native.zstd() is None, reason="no compiled part, or no zstd")


def loaded_around(shard: ShardReader, manifest: Manifest) -> tuple[list[int], list[int]]:
    """Which of three blocks are loaded at once, and which when asked from the third on."""
    memory, numbers = Recycled(), [0, 1, 2]
    empty = [memory.take(shard.frame(number).inflated_bytes) for number in numbers]
    for array in empty:
        array[:] = 0  # what is left over behind a block would be the end of an archive
    del array, empty
    loader = BlockLoader(manifest, memory)
    first = loader.load([(shard, number) for number in numbers]).blocks
    rest = loader.load([(shard, number) for number in numbers[2:]]).blocks
    for number, block in zip([*numbers[: len(first)], *numbers[2:]], [*first, *rest], strict=False):
        assert same(block, parse_block(shard.read_block(number), manifest))
    return numbers[: len(first)], numbers[2:][: len(rest)]


def flipped_in_the_frame(shard: Written) -> None:
    frame = bytearray(shard.frames[1])
    frame[len(frame) // 2] ^= 1
    shard.frames[1] = bytes(frame)


def flipped_in_the_frames_checksum(shard: Written) -> None:
    frame = bytearray(shard.frames[1])
    frame[-1] ^= 1
    shard.frames[1] = bytes(frame)


def checksum_wrong_in_frame_and_table(shard: Written) -> None:
    flipped_in_the_frames_checksum(shard)
    packed, inflated_bytes, checksum = shard.entries[1]
    shard.entries[1] = packed, inflated_bytes, checksum ^ 1 << 24


def checksum_wrong_in_the_table(shard: Written) -> None:
    packed, inflated_bytes, checksum = shard.entries[1]
    shard.entries[1] = packed, inflated_bytes, checksum ^ 1


def larger_in_the_table(shard: Written) -> None:
    packed, inflated_bytes, checksum = shard.entries[1]
    shard.entries[1] = packed, inflated_bytes + 512, checksum


def smaller_in_the_table(shard: Written) -> None:
    packed, inflated_bytes, checksum = shard.entries[1]
    shard.entries[1] = packed, inflated_bytes - 512, checksum


def a_frame_of_noise(shard: Written) -> None:
    shard.frames[1] = np.random.default_rng(0).bytes(len(shard.frames[1]))


@pytest.mark.parametrize(
    "damage",
    [
        flipped_in_the_frame,
        flipped_in_the_frames_checksum,
        checksum_wrong_in_frame_and_table,
        checksum_wrong_in_the_table,
        larger_in_the_table,
        smaller_in_the_table,
        a_frame_of_noise,
    ],
)
@pytest.mark.parametrize("encoding", ["image", "raw"])
def test_it_stops_before_a_damaged_frame_and_can_go_on_behind_it(
    packed: Packed, tmp_path: Path, encoding: str, damage: Callable[[Written], None]
) -> None:
    manifest = packed(encoding, "zstd:3")
    shard = Written.of(inflated(manifest)[:3])
    with shard.reader(tmp_path / "whole.tar.zst", manifest) as reader:
        assert loaded_around(reader, manifest) == ([0, 1, 2], [2])
    damage(shard)
    with shard.reader(tmp_path / "damaged.tar.zst", manifest) as reader:
        assert loaded_around(reader, manifest) == ([0], [2])
        with pytest.raises(StoreError):
            reader.read_block(1)


@pytest.mark.parametrize("encoding", ["image", "raw"])
def test_what_was_loaded_counts_as_verified_and_nothing_else(
    packed: Packed, tmp_path: Path, encoding: str
) -> None:
    manifest = packed(encoding, "zstd:3")
    shard = Written.of(inflated(manifest)[:3])
    checksum_wrong_in_frame_and_table(shard)
    with shard.reader(tmp_path / "damaged.tar.zst", manifest) as reader:
        assert [reader.frame(number).checksum for number in range(3)] == [
            e[2] for e in shard.entries[:3]
        ]
        for _ in range(2):
            assert loaded_around(reader, manifest) == ([0], [2])
            verified = [reader.frame(number).checksum == -1 for number in range(3)]
            assert verified == [True, False, True]


def test_a_block_that_was_verified_is_loaded_again_only_if_it_inflates_to_its_size(
    packed: Packed, tmp_path: Path
) -> None:
    manifest = packed("image", "zstd:3")
    shard, path = Written.of(inflated(manifest)[:3]), tmp_path / "overwritten.tar.zst"
    with shard.reader(path, manifest) as reader:
        assert loaded_around(reader, manifest) == ([0, 1, 2], [2])
        shard.frames[1] = bytes(len(shard.frames[1]))
        with path.open("r+b") as file:
            file.write(b"".join(shard.frames))
        assert loaded_around(reader, manifest) == ([0], [2])


def test_what_a_file_no_longer_has_is_not_taken_from_memory_that_had_it(
    packed: Packed, tmp_path: Path
) -> None:
    manifest = packed("image", "zstd:3")
    shard, path = Written.of(inflated(manifest)[:3]), tmp_path / "shorter.tar.zst"
    with shard.reader(path, manifest) as reader:
        loader = BlockLoader(manifest, Recycled())
        assert len(loader.load([(reader, 2)]).blocks) == 1
        with path.open("r+b") as file:
            file.truncate(reader.frame(2).offset)
        assert len(loader.load([(reader, 2)]).blocks) == 0


@pytest.mark.parametrize("encoding", ["image", "raw"])
def test_it_stops_where_a_file_was_cut_off_after_it_was_opened(
    packed: Packed, tmp_path: Path, encoding: str
) -> None:
    manifest = packed(encoding, "zstd:3")
    shard = Written.of(inflated(manifest)[:3])
    path = tmp_path / "cut.tar.zst"
    with shard.reader(path, manifest) as reader:
        with path.open("r+b") as file:
            file.truncate(len(shard.frames[0]) + len(shard.frames[1]) - 1)
        assert loaded_around(reader, manifest) == ([0], [])


def test_a_frame_of_the_same_size_in_the_place_of_another_is_noticed(
    packed: Packed, tmp_path: Path
) -> None:
    manifest = packed("raw", "zstd:3")
    first, second, third = inflated(manifest)[:3]
    compress = frames.FrameCompressor(3)
    twins = (
        second[:at] + bytes([second[at] ^ 1]) + second[at + 1 :] for at in range(1200, 2200, 7)
    )
    twin = next(twin for twin in twins if len(compress(twin)) == len(compress(second)))
    shard = Written.of([first, second, twin, third])
    assert shard.frames[1] != shard.frames[2]
    assert len(shard.frames[1]) == len(shard.frames[2])
    shard.frames[1:3] = shard.frames[2], shard.frames[1]
    with shard.reader(tmp_path / "swapped.tar.zst", manifest) as reader:
        loader = BlockLoader(manifest, Recycled())
        assert len(loader.load([(reader, number) for number in range(4)]).blocks) == 1
        assert len(loader.load([(reader, 2), (reader, 3)]).blocks) == 0
        assert len(loader.load([(reader, 3)]).blocks) == 1


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def renamed(samples: Samples) -> bytes:
    """One sample's second member has another sample's name."""
    data = bytearray(block_of(samples))
    name = f"{samples[7][0]}.".encode()
    at = data.find(name, data.find(name) + 1)
    data[at : at + len(name) - 1] = samples[8][0].encode()
    return bytes(data)


def missing(samples: Samples) -> bytes:
    return block_of(samples[:7] + samples[8:])


def one_more(samples: Samples) -> bytes:
    return block_of([*samples, ("one-more", samples[0][1])])


def member_missing(samples: Samples) -> bytes:
    key, members = samples[7]
    fewer = {name: data for name, data in members.items() if not name.startswith("mask")}
    return block_of([*samples[:7], (key, fewer), *samples[8:]])


def members_swapped(samples: Samples) -> bytes:
    key, members = samples[7]
    names = list(members)
    order = [names[0], names[2], names[1], names[3]]
    return block_of([*samples[:7], (key, {n: members[n] for n in order}), *samples[8:]])


def changed(samples: Samples, row: int, **members: bytes) -> bytes:
    key, before = samples[row]
    after = before | {name.replace("_", "."): data for name, data in members.items()}
    return block_of([*samples[:row], (key, after), *samples[row + 1 :]])


ODD: dict[str, Callable[[Samples], bytes]] = {
    "member renamed": renamed,
    "sample missing": missing,
    "sample too many": one_more,
    "member missing": member_missing,
    "members swapped": members_swapped,
    "nothing": lambda samples: bytes(512),
    "bytes behind": lambda samples: block_of(samples) + b"x" * 512,
}

ODD_RAW: dict[str, Callable[[Samples], bytes]] = {
    f"{what} in {where}": lambda samples, row=row, array=array: changed(
        samples, row, mask_npy=npy(array)
    )
    for where, row in (("the first", 0), ("a middle one", 7), ("the last", SAMPLES - 1))
    for what, array in (
        ("other dtype", np.zeros((24, 32), np.int8)),
        ("other shape", np.zeros((32, 24), np.uint8)),
        ("other order", np.zeros((32, 24), np.uint8).T),
        ("other size", np.zeros((24, 64), np.uint8)),
        ("a smaller size", np.zeros((2, 3), np.uint8)),
    )
} | {
    "other dtype in all": lambda samples: block_of(
        [(key, m | {"mask.npy": npy(np.zeros((24, 32), np.int8))}) for key, m in samples]
    ),
    "smaller arrays in all": lambda samples: block_of(
        [(key, m | {"mask.npy": npy(np.zeros((2, 3), np.uint8))}) for key, m in samples]
    ),
    "shorter JSON in one": lambda samples: changed(samples, 7, json=samples[7][1]["json"][:-1]),
    "longer JSON in one": lambda samples: changed(
        samples, 7, json=bytes(1024).replace(b"\0", b" ")
    ),
}


@pytest.mark.parametrize(
    ("encoding", "change"),
    [
        *(
            pytest.param(e, change, id=f"{e}-{n}")
            for e in ("image", "raw")
            for n, change in ODD.items()
        ),
        *(pytest.param("raw", change, id=f"raw-{name}") for name, change in ODD_RAW.items()),
    ],
)
def test_it_stops_before_a_block_that_is_not_what_was_packed(
    packed: Packed, tmp_path: Path, encoding: str, change: Callable[[Samples], bytes]
) -> None:
    manifest = packed(encoding, "zstd:3")
    first, second, third = inflated(manifest)[:3]
    samples = samples_of(second, manifest)
    assert block_of(samples) == second
    shard = Written.of([first, change(samples), third])
    with shard.reader(tmp_path / "odd.tar.zst", manifest) as reader:
        assert loaded_around(reader, manifest) == ([0], [2])


@pytest.mark.parametrize("encoding", ["image", "raw"])
@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_is_never_loaded_as_other_bytes(
    packed: Packed, tmp_path: Path, encoding: str, data: st.DataObject
) -> None:
    manifest = packed(encoding, "zstd:3")
    blocks = inflated(manifest)[:3]
    shard = Written.of(blocks)
    content = bytearray(b"".join(shard.frames) + frames.write_seek_table(shard.entries))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "flipped.tar.zst"
    path.write_bytes(content)
    entry = Shard(path.name, 3 * SAMPLES, len(content), "")
    with suppress(StoreError), ShardReader(str(path), entry, manifest) as reader:
        loader = BlockLoader(manifest, Recycled())
        for number, expected in enumerate(blocks):
            for block in loader.load([(reader, number)]).blocks:
                assert block.data == expected


@pytest.mark.parametrize("samples", [1, SAMPLES])
@pytest.mark.parametrize("behind", [8, 512, 1024])
def test_a_raw_block_that_is_longer_than_its_samples_is_not_loaded(
    packed: Packed, tmp_path: Path, behind: int, samples: int
) -> None:
    manifest = dataclasses.replace(packed("raw", "zstd:3"), samples_per_block=samples)
    whole = (samples_of(block, manifest) for block in inflated(packed("raw", "zstd:3"))[:3])
    first, second, third = (block_of(block[:samples]) for block in whole)
    shard = Written.of([first, second + bytes(behind), third], samples)
    with shard.reader(tmp_path / "longer.tar.zst", manifest) as reader:
        with pytest.raises(StoreError):
            parse_block(reader.read_block(1), manifest)
        assert len(BlockLoader(manifest, Recycled()).load([(reader, 1)]).blocks) == 0
