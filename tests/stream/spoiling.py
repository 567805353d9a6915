"""Copies of packed datasets in which chosen blocks and samples are damaged."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.stream.readings import Place
from wdtrain.packing.shardfile import ShardFile
from wdtrain.store.manifest import Manifest, Shard, digest_of
from wdtrain.store.shards import ShardReader

Change = Callable[[int, int, bytes], bytes]
"""(number of a shard, of a block in it, its inflated bytes) -> those to be written."""


def rewrite(data: Manifest, target: Path, change: Change) -> Manifest:
    """A copy of a dataset with other blocks, with checksums that agree (as a packer at fault, or
    a stranger, would leave it)."""
    target.mkdir()
    document = json.loads((Path(data.url) / "manifest.json").read_bytes())
    for number, about in enumerate(document["splits"]["train"]["shards"]):
        shard, level = data.splits["train"].shards[number], 1 if data.is_compressed else None
        with (
            ShardReader(data.shard_url(shard), shard, data) as reader,
            closing(ShardFile(target / shard.name, zstd_level=level)) as file,
        ):
            for block in range(reader.num_blocks):
                file.add_block(change(number, block, bytes(reader.read_block(block))))
            about["bytes"], about["sha256"] = file.finish()
            if level is None:
                about["blocks"] = file.blocks
    document["digest"] = digest_of(document)
    (target / "manifest.json").write_text(json.dumps(document))
    return Manifest.load(str(target))


def spoil(data: Manifest, target: Path, blocks: set[Place], samples: set[Place]) -> Manifest:
    """A copy of a dataset: a byte flipped in some blocks, and in some samples a JPEG that is
    none."""

    def change(shard: int, block: int, data: bytes) -> bytes:
        content = bytearray(data)
        for row in (row for *place, row in samples if place == [shard, block]):
            with tarfile.open(fileobj=io.BytesIO(content)) as tar:
                jpeg = tar.getmembers()[4 * row]
            content[jpeg.offset_data : jpeg.offset_data + jpeg.size] = bytes(jpeg.size)
        return bytes(content)

    bad = rewrite(data, target, change)
    for number, block in {place[:2] for place in blocks}:
        flip_a_byte(bad, bad.splits["train"].shards[number], block)
    return bad


def flip_a_byte(data: Manifest, shard: Shard, block: int) -> None:
    with ShardReader(data.shard_url(shard), shard, data) as reader:
        offset, num_bytes = reader._extent(block)
    whole = bytearray(Path(data.shard_url(shard)).read_bytes())
    whole[offset + num_bytes // 2] ^= 0x20
    Path(data.shard_url(shard)).write_bytes(whole)
