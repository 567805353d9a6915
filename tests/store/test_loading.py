"""Blocks that are loaded at once are those of the careful way."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.disks import FORMS
from tests.store.blocks import raw_arrays, readers, same
from wdtrain.store import native
from wdtrain.store.buffers import Recycled
from wdtrain.store.loading import BlockLoader
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import parse_block

Packed = Callable[..., Manifest]

COMPRESSED = [(encoding, compression) for encoding, compression in FORMS if compression != "none"]
needs_library = pytest.mark.skipif(native.zstd() is None, reason="no compiled part, or no zstd")


@needs_library
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("encoding", "compression"), [*COMPRESSED, ("raw", "zstd:-7")])
def test_loaded_blocks_are_those_of_the_careful_way(
    packed: Packed, encoding: str, compression: str, bits: int
) -> None:
    manifest = packed(encoding, compression, bits=bits)
    with readers(manifest) as shards:
        wanted = [(shard, n) for shard in shards for n in range(shard.num_blocks)][::-1]
        blocks = BlockLoader(manifest, Recycled()).load(wanted).blocks
        assert len(blocks) == len(wanted)
        for block, (shard, number) in zip(blocks, wanted, strict=True):
            assert same(block, parse_block(shard.read_block(number), manifest))
            assert block.num_samples == shard.block_samples(number)


@needs_library
def test_a_block_that_is_held_keeps_its_bytes_while_others_are_loaded(packed: Packed) -> None:
    manifest = packed("raw", "zstd:3")
    loader = BlockLoader(manifest, Recycled())
    with readers(manifest) as (shard, *_):
        (held,) = loader.load([(shard, 0)]).blocks
        arrays = raw_arrays(held)
        before = [array.copy() for array in arrays]
        del held
        for number in range(shard.num_blocks):
            assert len(loader.load([(shard, number)]).blocks) == 1
        for array, expected in zip(arrays, before, strict=True):
            np.testing.assert_array_equal(array, expected)


@needs_library
def test_threads_share_one_loader(packed: Packed) -> None:
    manifest = packed("image", "zstd:3")
    loader = BlockLoader(manifest, Recycled())
    with readers(manifest) as shards, ThreadPoolExecutor(8) as pool:
        wanted = [(shard, n) for shard in shards for n in range(shard.num_blocks)] * 10
        alone = {place: parse_block(place[0].read_block(place[1]), manifest) for place in wanted}
        for place, got in zip(wanted, pool.map(lambda p: loader.load([p]), wanted), strict=True):
            assert same(got.blocks[0], alone[place])


def test_only_compressed_local_shards_are_loaded_so(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed, plain = packed("raw", "zstd:3"), packed("raw", "none")
    is_there = native.zstd() is not None
    assert BlockLoader.can_load(compressed, is_remote=False) == is_there
    assert not BlockLoader.can_load(compressed, is_remote=True)
    assert not BlockLoader.can_load(plain, is_remote=False)
    monkeypatch.setattr(native, "zstd", native.zstd.__wrapped__)
    monkeypatch.setattr(native, "LIBRARY", None)
    assert not BlockLoader.can_load(compressed, is_remote=False)


@needs_library
def test_a_package_that_shows_no_zstd_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native.zstandard, "__file__", str(tmp_path / "__init__.py"))
    assert native.zstd.__wrapped__() is None
    (tmp_path / "_cffi.so").write_bytes(b"no library")
    assert native.zstd.__wrapped__() is None
    (tmp_path / "_cffi.so").write_bytes(Path(native.LIBRARY._name).read_bytes())
    assert native.zstd.__wrapped__() is None
