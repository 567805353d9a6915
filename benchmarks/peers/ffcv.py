"""FFCV; options: `raw` stores all three as arrays, else the overlay as JPEG and two arrays.

Settings: OrderOption.RANDOM, the file mapped (os_cache), its own numba threads. The JPEG bytes are
everybody's: a field of its own writer that does not encode once more, read back by FFCV's own
decoder, which asks libjpeg-turbo for the fast DCT, so its pixels may differ a little. The surprise:
it hands out one of five buffers in turn, which a user must copy to keep.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ffcv.fields import NDArrayField, RGBImageField
from ffcv.fields.rgb_image import IMAGE_MODES
from ffcv.loader import Loader as FfcvLoader
from ffcv.loader import OrderOption
from ffcv.writer import DatasetWriter

from peers.job import Job, Loader
from peers.shared import Shared

NAMES = ("overlay", "mask", "depth")


class JpegField(RGBImageField):  # type: ignore[misc]  # untyped
    """A picture given as JPEG bytes, written as FFCV writes those that it encodes itself."""

    def __init__(self, size: int) -> None:
        super().__init__(write_mode="jpg")
        self.size = size

    def encode(self, destination: Any, image: bytes, malloc: Any) -> None:
        destination["mode"] = IMAGE_MODES["jpg"]
        destination["height"] = destination["width"] = self.size
        destination["data_ptr"], storage = malloc(len(image))
        storage[:] = np.frombuffer(image, np.uint8)


class Samples:
    """What the writer's processes index."""

    def __init__(self, shared: Shared, raw: bool) -> None:
        self.overlays: Any = shared.array("overlay_raw") if raw else list(shared.member("jpeg"))
        self.mask, self.depth = shared.array("mask"), shared.array("depth")

    def __len__(self) -> int:
        return len(self.overlays)

    def __getitem__(self, index: int) -> tuple[Any, np.ndarray, np.ndarray]:
        return self.overlays[index], self.mask[index], self.depth[index]


def write(job: Job, shared: Shared) -> None:
    grey = NDArrayField(np.dtype(np.uint8), (job.size, job.size))
    colour = NDArrayField(np.dtype(np.uint8), (job.size, job.size, 3))
    overlay = colour if job.options.get("raw", False) else JpegField(job.size)
    fields = dict(zip(NAMES, (overlay, grey, grey), strict=True))
    writer = DatasetWriter(f"{job.data}/train.beton", fields, num_workers=1)
    writer.from_indexed_dataset(Samples(shared, job.options.get("raw", False)))


def open_loader(job: Job) -> Loader:
    loader = FfcvLoader(
        f"{job.data}/train.beton",
        batch_size=job.batch_size,
        num_workers=job.workers,
        order=OrderOption.RANDOM,
        seed=job.seed,
        drop_last=False,
        custom_fields={} if job.options.get("raw", False) else {"overlay": RGBImageField},
    )
    return Loader(epoch=lambda: loader)
