"""Folders that look whole and are not, and JPEGs that readers would see differently."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from wdtrain.commands import inspect_shards
from wdtrain.disk.failures import StoreError
from wdtrain.fields.jpeg import decode_jpeg, encode_jpeg
from wdtrain.fields.png import encode_png
from wdtrain.packing.pack import pack
from wdtrain.packing.splits import Holdout
from wdtrain.packing.verify import walk_blocks
from wdtrain.sources.folder import UNFINISHED, FolderSource
from wdtrain.store.samples import decode_row


def test_a_folder_whose_making_was_interrupted_is_refused(tmp_path: Path) -> None:
    (tmp_path / UNFINISHED).write_text("{}")
    with pytest.raises(StoreError, match="run the same make-triples command again"):
        FolderSource(tmp_path)


RAMP = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
MASK = np.where(np.arange(32) < 9, 255, 0).astype(np.uint8)[:, None].repeat(32, 1)


def with_exif(jpeg: bytes, turn: int) -> bytes:
    entry = struct.pack(">HHIHH", 274, 3, 1, turn, 0)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + entry + bytes(4)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + jpeg[2:]


def packed_with(
    folder: Path, overlay: bytes, *, mask: np.ndarray = MASK, **options: Any
) -> tuple[bytes, tuple[np.ndarray, ...]]:
    """The stored overlay of one of 12 samples, and the arrays that a reader gets of it."""
    source = folder / "in"
    source.mkdir(parents=True)
    for number in range(12):
        (source / f"s{number}.overlay.jpg").write_bytes(overlay)
        (source / f"s{number}.mask.png").write_bytes(encode_png(mask))
        (source / f"s{number}.depth.png").write_bytes(encode_png(mask // 2 + 1))
    every = {"processes": 1, "holdout": Holdout(samples=0.0), **options}
    manifest = pack(FolderSource(source), folder / "out", **every)
    _, _, block = next(walk_blocks(manifest, manifest.split("train")))
    return bytes(block.members(0)[0]), tuple(decode_row(block, 0).values())


def test_only_plain_colour_jpegs_pass_through(tmp_path: Path) -> None:
    plain = encode_jpeg(RAMP)
    assert packed_with(tmp_path / "plain", plain)[0] == plain
    grey = cv2.imencode(".jpg", RAMP[:, :, 0])[1].tobytes()
    stored, (overlay, _, _) = packed_with(tmp_path / "grey", grey)
    assert stored != grey
    np.testing.assert_array_equal(overlay, decode_jpeg(stored))


def test_a_jpeg_that_nothing_turns_passes_without_its_exif_and_what_lies_behind_it(
    tmp_path: Path,
) -> None:
    plain = encode_jpeg(RAMP)
    photo = with_exif(plain, 1) + b"MotionPhoto_Data" + bytes(300)
    assert packed_with(tmp_path, photo)[0] == plain


@pytest.mark.parametrize("size", [None, 16])
@pytest.mark.parametrize("turn", range(2, 9))
def test_a_turned_photo_lies_on_the_mask_that_was_drawn_as_it_is_shown(
    tmp_path: Path, turn: int, size: int | None
) -> None:
    band = np.where(MASK > 0, 230, 40).astype(np.uint8)[..., None].repeat(3, 2)
    unturned = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[turn]
    shown = Image.open(io.BytesIO(with_exif(encode_jpeg(band, 98), unturned)))
    stored = np.array(ImageOps.exif_transpose(shown))
    photo = with_exif(encode_jpeg(stored, 98), turn)
    _, (overlay, mask, _) = packed_with(tmp_path, photo, size=size)
    np.testing.assert_array_equal(overlay.mean(-1) >= 128, mask >= 128)


def test_a_mask_that_was_drawn_on_the_unturned_pixels_is_rejected_by_the_turn(
    tmp_path: Path,
) -> None:
    photo = with_exif(encode_jpeg(RAMP[:24]), 6)
    with pytest.raises(StoreError, match=r"\(32, 24\) as its EXIF orientation 6 shows it"):
        packed_with(tmp_path, photo, mask=MASK[:24])


def test_pngs_are_turned_by_the_same_rule(tmp_path: Path) -> None:
    plain = encode_jpeg(RAMP)
    png = encode_png(MASK)
    exif = b"eXIfMM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 274, 3, 1, 3, 0) + bytes(4)
    chunk = struct.pack(">I", len(exif) - 4) + exif + struct.pack(">I", zlib.crc32(exif))
    source = tmp_path / "in"
    source.mkdir()
    (source / "s.overlay.jpg").write_bytes(plain)
    for name in ("mask", "depth"):
        (source / f"s.{name}.png").write_bytes(png[:33] + chunk + png[33:])
    sample = FolderSource(source).load(0)
    np.testing.assert_array_equal(sample.arrays["mask"], MASK[::-1, ::-1])
    np.testing.assert_array_equal(sample.arrays["depth"], MASK[::-1, ::-1])


def test_samples_without_foreground_are_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = np.zeros_like(MASK)
    _, (_, mask, _) = packed_with(tmp_path, encode_jpeg(RAMP), mask=empty)
    assert not mask.any()
    assert inspect_shards.main(["verify", str(tmp_path / "out")]) == 0
    assert "12 samples decoded, 12 of them without foreground" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0, 1), "values 0 and 1 were found; foreground counts from 128"),
        ((1, 1), "no value but 1 were found; foreground"),
        ((0, 127), "values 0 and 127 were found"),
    ],
)
def test_a_mask_that_never_reaches_foreground_names_its_values(
    tmp_path: Path, values: tuple[int, int], said: str
) -> None:
    mask = np.where(MASK > 0, values[1], values[0]).astype(np.uint8)
    with pytest.raises(StoreError, match=said):
        packed_with(tmp_path, encode_jpeg(RAMP), mask=mask)
