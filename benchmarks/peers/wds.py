"""The webdataset library; options: `decoder` is `torchrgb8`, `fast` or `pil`, `suffix` the shards'.

Settings: our own plain `.tar` shards, whose short headers it reads faster than those of its own
writer; samples shuffled in a buffer of 1,000 and shards shuffled too; batches made in the workers.
`.tar.zst` goes through `wdtrain.store.opener`, the way the documentation tells its users.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image

from peers.decoders import decode_batch
from peers.job import Batch, Job, Loader
from wdtrain.store.opener import expand_and_group, open_shards

NAMES = ("overlay.jpg", "mask.png", "depth.png")
SHUFFLE_BUFFER = 1000


def open_loader(job: Job) -> Loader:
    torch.set_num_threads(1)
    shards = job.shards("train-*")
    dataset = webdataset.DataPipeline(
        webdataset.SimpleShardList(shards),
        webdataset.detshuffle(len(shards), seed=job.seed),
        webdataset.split_by_worker,
        *reading(job.options["suffix"]),
        webdataset.shuffle(SHUFFLE_BUFFER),
        *DECODERS[job.options["decoder"]](job),
    )
    loader: Iterable[Batch] = webdataset.WebLoader(
        dataset,
        batch_size=None,
        num_workers=job.num_worker_processes,
        persistent_workers=job.num_worker_processes > 0,
    )
    return Loader(epoch=lambda: loader)


def reading(suffix: str) -> list[Any]:
    """Shards to samples: by the library alone, or by our opener and the library."""
    if suffix == ".tar":
        return [webdataset.tarfile_to_samples()]
    return [open_shards, expand_and_group]


def torchrgb8(job: Job) -> list[Any]:
    stages = [webdataset.decode("torchrgb8"), webdataset.to_tuple(*NAMES)]
    return [*stages, webdataset.batched(job.batch_size, collation_fn=stacked)]


def stacked(rows: list[tuple[torch.Tensor, ...]]) -> list[torch.Tensor]:
    overlay, mask, depth = (torch.stack(column) for column in zip(*rows, strict=True))
    return [overlay, mask[:, :1], depth[:, :1]]  # it makes three equal channels of grey pictures


def fast(job: Job) -> list[Any]:
    def collate(rows: list[tuple[bytes, ...]]) -> Batch:
        return decode_batch(rows, job.size)

    return [webdataset.to_tuple(*NAMES), webdataset.batched(job.batch_size, collation_fn=collate)]


def pil(job: Job) -> list[Any]:
    def shrunk(sample: tuple[bytes, ...]) -> tuple[np.ndarray, ...]:
        bilinear, nearest = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
        return tuple(
            np.asarray(Image.open(io.BytesIO(data)).resize((job.size, job.size), how))
            for data, how in zip(sample, (bilinear, bilinear, nearest), strict=True)
        )

    def collate(rows: list[tuple[np.ndarray, ...]]) -> Batch:
        overlay, mask, depth = (torch.from_numpy(np.stack(c)) for c in zip(*rows, strict=True))
        return overlay, mask, depth

    stages = [webdataset.to_tuple(*NAMES), webdataset.map(shrunk)]
    return [*stages, webdataset.batched(job.batch_size, collation_fn=collate)]


DECODERS: dict[str, Callable[[Job], list[Any]]] = {
    "torchrgb8": torchrgb8,
    "fast": fast,
    "pil": pil,
}
