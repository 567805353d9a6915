"""A block is located by arithmetic, read alone, and never given out with other bytes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.disks import FORMS
from wdtrain.disk.failures import DamagedBlock, StoreError
from wdtrain.remote.access import LocalFile
from wdtrain.store import tar
from wdtrain.store.buffers import Recycled
from wdtrain.store.manifest import Manifest, Shard
from wdtrain.store.shards import ShardReader

Packed = Callable[..., Manifest]


def first_shard(manifest: Manifest) -> tuple[Path, Shard]:
    shard = manifest.split("train").shards[0]
    return Path(manifest.shard_url(shard)), shard


@pytest.mark.parametrize(("encoding", "compression"), FORMS)
def test_every_block_holds_the_same_number_of_samples(
    packed: Packed, encoding: str, compression: str
) -> None:
    manifest = packed(encoding, compression)
    for split in manifest.splits.values():
        for shard in split.shards:
            with ShardReader(manifest.shard_url(shard), shard, manifest) as reader:
                blocks = [reader.read_block(number) for number in range(reader.num_blocks)]
                counts = [len(tar.walk(block)) // 4 for block in blocks]
                assert set(counts[:-1]) <= {16}
                assert 0 < counts[-1] <= 16
                assert sum(counts) == shard.samples
                assert counts == [reader.block_samples(n) for n in range(reader.num_blocks)]
                with pytest.raises(IndexError):
                    reader.read_block(reader.num_blocks)


@pytest.mark.parametrize(("encoding", "compression"), FORMS)
def test_urls_and_paths_give_the_same_blocks(
    packed: Packed, encoding: str, compression: str
) -> None:
    manifest = packed(encoding, compression)
    path, shard = first_shard(manifest)
    with (
        ShardReader(str(path), shard, manifest) as local,
        ShardReader(f"file://{path}", shard, manifest) as remote,
    ):
        for number in range(local.num_blocks):
            assert local.read_block(number) == remote.read_block(number)


def test_threads_share_one_reader(packed: Packed) -> None:
    manifest = packed()
    path, shard = first_shard(manifest)
    with ShardReader(str(path), shard, manifest) as reader, ThreadPoolExecutor(8) as pool:
        numbers = list(range(reader.num_blocks)) * 20
        alone = [reader.read_block(number) for number in range(reader.num_blocks)]
        for number, data in zip(numbers, pool.map(reader.read_block, numbers), strict=True):
            assert data == alone[number]


@pytest.mark.parametrize(("encoding", "compression"), FORMS)
def test_blocks_in_memory_that_is_used_again_are_the_same(
    packed: Packed, encoding: str, compression: str
) -> None:
    manifest = packed(encoding, compression)
    path, shard = first_shard(manifest)
    memory = Recycled()
    with (
        ShardReader(str(path), shard, manifest) as reader,
        ShardReader(str(path), shard, manifest, memory=memory) as again,
        ShardReader(f"file://{path}", shard, manifest, memory=memory) as remote,
    ):
        alone = [bytes(reader.read_block(number)) for number in range(reader.num_blocks)]
        held = again.read_block(0)
        for number, expected in list(enumerate(alone)) * 2:
            assert again.read_block(number) == expected
            assert remote.read_block(number) == expected
        assert held == alone[0]


def test_a_compressed_block_lies_where_its_frame_says(packed: Packed) -> None:
    manifest = packed()
    path, shard = first_shard(manifest)
    with ShardReader(str(path), shard, manifest) as reader:
        for number in range(reader.num_blocks):
            frame = reader.frame(number)
            data = os.pread(frame.descriptor, frame.packed_bytes, frame.offset)
            assert data == reader.read_packed(number)
            assert frame.inflated_bytes == len(reader.read_block(number))
            assert frame.checksum.to_bytes(4, "little") == data[-4:]
            assert frame.samples == reader.block_samples(number)


def test_a_local_file_is_read_into_memory_as_far_as_it_goes(tmp_path: Path) -> None:
    (tmp_path / "ten").write_bytes(b"0123456789")
    file, room = LocalFile(str(tmp_path / "ten")), bytearray(b"....")
    for offset, count, expected in ((0, 4, b"0123"), (8, 2, b"8923"), (10, 0, b"8923")):
        assert file.read_into(offset, memoryview(room)) == count
        assert bytes(room) == expected
    file.close()


@pytest.mark.parametrize("memory", [None, Recycled()], ids=["its own memory", "given memory"])
def test_a_block_cut_off_after_its_shard_was_opened_is_named(
    packed: Packed, tmp_path: Path, memory: Recycled | None
) -> None:
    manifest = packed()
    path, shard = first_shard(manifest)
    cut = tmp_path / shard.name
    shutil.copy(path, cut)
    with ShardReader(str(cut), shard, manifest, memory=memory) as reader:
        whole = reader.read_block(0)
        with cut.open("r+b") as file:
            file.truncate(reader.frame(1).offset + 10)
        assert reader.read_block(0) == whole
        with pytest.raises(DamagedBlock, match=r"block 1 is damaged.* 10 of .* bytes were read"):
            reader.read_block(1)


@pytest.mark.parametrize("compression", ["zstd:3", "none"])
@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_never_gives_other_bytes(
    packed: Packed, tmp_path: Path, compression: str, data: st.DataObject
) -> None:
    manifest = packed("image", compression)
    path, shard = first_shard(manifest)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    damaged = tmp_path / "damaged"
    damaged.write_bytes(content)
    with ShardReader(str(path), shard, manifest) as whole:
        good = [whole.read_block(number) for number in range(whole.num_blocks)]
    with suppress(StoreError), ShardReader(str(damaged), shard, manifest) as reader:
        for number, expected in enumerate(good):
            with suppress(DamagedBlock):
                assert reader.read_block(number) == expected


def test_a_damaged_block_is_named_and_leaves_its_neighbours(packed: Packed, tmp_path: Path) -> None:
    manifest = packed("image", "none")
    path, shard = first_shard(manifest)
    content = bytearray(path.read_bytes())
    content[shard.blocks[1].offset + 600] ^= 1
    damaged = tmp_path / shard.name
    damaged.write_bytes(content)
    with ShardReader(str(damaged), shard, manifest) as reader:
        reader.read_block(0)
        with pytest.raises(DamagedBlock, match=rf"{shard.name}, block 1 is damaged"):
            reader.read_block(1)
        reader.read_block(2)


def test_a_missing_or_cut_shard_is_named_when_it_is_opened(packed: Packed, tmp_path: Path) -> None:
    manifest = packed()
    path, shard = first_shard(manifest)
    with pytest.raises(StoreError, match=f"shard {shard.name} is missing"):
        ShardReader(str(tmp_path / shard.name), shard, manifest)
    with pytest.raises(StoreError, match=f"shard {shard.name} is missing"):
        ShardReader(f"file://{tmp_path / shard.name}", shard, manifest)
    cut = tmp_path / "cut"
    shutil.copy(path, cut)
    with cut.open("r+b") as file:
        file.truncate(shard.num_bytes - 1)
    with pytest.raises(StoreError, match=f"shard {shard.name} holds .* cut off"):
        ShardReader(str(cut), shard, manifest)
