"""Laws of reading the seed project's folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from wdtrain.scenes.seedfolder import SeedFolder
from wdtrain.triple import TripleError


def jpeg(rng: np.random.Generator, *, grey: bool, size: int = 24) -> bytes:
    shape = (size, size, 1 if grey else 3)
    pixels = rng.integers(0, 256, shape).astype(np.uint8)
    data: bytes = simplejpeg.encode_jpeg(
        pixels, colorspace="GRAY" if grey else "RGB", colorsubsampling="444"
    )
    return data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, prefix in (("fg", ""), ("mask", "mask_"), ("depth", "depth_")):
        (tmp_path / part).mkdir()
        for name in ("bg1_fg2_7", "bg1_fg3 8", "x.y"):
            data = jpeg(rng, grey=part != "fg")
            (tmp_path / part / f"{prefix}{name}.jpg").write_bytes(data)
    return tmp_path


def test_an_overlay_keeps_its_bytes_and_masks_their_greys(folder: Path) -> None:
    source = SeedFolder(folder)
    assert len(source) == 3
    for index, name in enumerate(source.names):
        triple = source.load(index)
        assert triple.overlay == (folder / "fg" / f"{name}.jpg").read_bytes()
        mask = (folder / "mask" / f"mask_{name}.jpg").read_bytes()
        assert np.array_equal(triple.mask, simplejpeg.decode_jpeg(mask, "GRAY")[..., 0])


def test_depth_is_relative_and_keeps_its_order(folder: Path) -> None:
    source = SeedFolder(folder)
    greys = simplejpeg.decode_jpeg(
        (folder / "depth" / f"depth_{source.names[0]}.jpg").read_bytes(), "GRAY"
    )[..., 0]
    depth = source.load(0).depth
    assert source.depth_format.kind == "relative"
    assert depth.min() >= 1
    assert np.allclose(source.depth_format.decode(depth), greys / 255, atol=1 / 254)


def test_keys_are_valid_and_groups_come_from_names(folder: Path) -> None:
    source = SeedFolder(folder)
    keys = [source.key(index) for index in range(3)]
    assert len(set(keys)) == 3
    assert all(key.replace("_", "").replace("-", "").isalnum() for key in keys)
    backgrounds, cutouts = source.parts(np.arange(3))
    assert backgrounds.tolist() == [1, 1, -1]
    assert sorted(cutouts.tolist()) == [-1, 2, 3]


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("fg/x.y.jpg", "overlay is missing"),
        ("mask/mask_x.y.jpg", "mask is missing"),
        ("depth/depth_x.y.jpg", "depth is missing"),
    ],
)
def test_a_missing_part_is_rejected(folder: Path, path: str, what: str) -> None:
    (folder / path).unlink()
    source = SeedFolder(folder)
    with pytest.raises(TripleError, match=what):
        source.load(source.names.index("x.y"))


def test_damage_and_wrong_sizes_are_rejected(folder: Path) -> None:
    source = SeedFolder(folder)
    index = source.names.index("x.y")
    mask = folder / "mask" / "mask_x.y.jpg"
    mask.write_bytes(jpeg(np.random.default_rng(1), grey=True, size=16))
    with pytest.raises(TripleError, match="mask is 16 x 16 pixels"):
        source.load(index)
    mask.write_bytes(b"no jpeg")
    with pytest.raises(TripleError, match="mask cannot be decoded"):
        source.load(index)


def test_refuses_other_layouts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no folder fg/"):
        SeedFolder(tmp_path)
    for part in ("fg", "mask", "depth"):
        (tmp_path / part).mkdir()
    with pytest.raises(ValueError, match=r"holds no \.jpg"):
        SeedFolder(tmp_path)
