"""Copies of packed datasets in which chosen blocks and samples are damaged."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from tests.stream.readings import Place
from wdtrain.store.manifest import Manifest, Shard, digest_of
from wdtrain.store.shardfile import ShardFile
from wdtrain.store.shards import ShardReader


def spoil(data: Manifest, target: Path, blocks: set[Place], samples: set[Place]) -> Manifest:
    """A copy of a dataset: a byte flipped in some blocks, and in some samples a JPEG that is none,
    with checksums that agree (as a packer at fault would leave it)."""
    target.mkdir()
    document = json.loads((Path(data.url) / "manifest.json").read_bytes())
    for number, about in enumerate(document["splits"]["train"]["shards"]):
        shard, level = data.splits["train"].shards[number], 1 if data.is_compressed else None
        with (
            ShardReader(data.shard_url(shard), shard, data) as reader,
            ShardFile(target / shard.name, zstd_level=level) as file,
        ):
            for block in range(reader.num_blocks):
                content = bytearray(reader.read_block(block))
                for row in (row for *place, row in samples if place == [number, block]):
                    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
                        jpeg = tar.getmembers()[4 * row]
                    content[jpeg.offset_data : jpeg.offset_data + jpeg.size] = bytes(jpeg.size)
                file.add_block(bytes(content))
            about["bytes"], about["sha256"] = file.finish()
            if level is None:
                about["blocks"] = file.blocks
    document["digest"] = digest_of(document)
    (target / "manifest.json").write_text(json.dumps(document))
    bad = Manifest.load(str(target))
    for number, block in {place[:2] for place in blocks}:
        flip_a_byte(bad, bad.splits["train"].shards[number], block)
    return bad


def flip_a_byte(data: Manifest, shard: Shard, block: int) -> None:
    with ShardReader(data.shard_url(shard), shard, data) as reader:
        offset, num_bytes = reader._extent(block)
    whole = bytearray(Path(data.shard_url(shard)).read_bytes())
    whole[offset + num_bytes // 2] ^= 0x20
    Path(data.shard_url(shard)).write_bytes(whole)
