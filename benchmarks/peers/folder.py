"""Loose files and PIL, as the seed project did: pictures of 160 pixels, made smaller on reading.

Settings: bilinear for the overlay and the mask, nearest for depth; PyTorch's DataLoader.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from peers.job import Batch, Job, Loader
from peers.shared import MEMBERS, Shared

EXTENSIONS = dict(zip(MEMBERS, ("jpg", "mask.png", "depth.png"), strict=True))


def write(job: Job, shared: Shared) -> None:
    for row, sample in enumerate(shared.encoded()):
        for extension, data in zip(EXTENSIONS.values(), sample, strict=True):
            (Path(job.data) / f"{row:06d}.{extension}").write_bytes(data)


class Folder(Dataset[Batch]):
    def __init__(self, folder: str, size: int) -> None:
        self.size = (size, size)
        self.stems = [str(path.with_suffix("")) for path in sorted(Path(folder).glob("*.jpg"))]

    def __len__(self) -> int:
        return len(self.stems)

    def __getitem__(self, index: int) -> Batch:
        stem = self.stems[index]
        overlay = self._load(f"{stem}.jpg", Image.Resampling.BILINEAR)
        mask = self._load(f"{stem}.mask.png", Image.Resampling.BILINEAR)
        return overlay, mask, self._load(f"{stem}.depth.png", Image.Resampling.NEAREST)

    def _load(self, path: str, resampling: Image.Resampling) -> torch.Tensor:
        with Image.open(path) as picture:
            return torch.from_numpy(np.array(picture.resize(self.size, resampling)))


def open_loader(job: Job) -> Loader:
    torch.set_num_threads(1)
    loader: Iterable[Batch] = DataLoader(
        Folder(job.data, job.size),
        batch_size=job.batch_size,
        shuffle=True,
        num_workers=job.num_worker_processes,
        persistent_workers=job.num_worker_processes > 0,
        generator=torch.Generator().manual_seed(job.seed),
    )
    return Loader(epoch=lambda: loader)
