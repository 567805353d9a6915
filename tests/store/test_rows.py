"""Many rows at once give what row by row gives, compiled or not, and never hide a damage."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from PIL import features

from tests.store.conftest import FORMS
from wdtrain import triple
from wdtrain.store import native, tar
from wdtrain.store.manifest import Manifest
from wdtrain.store.rows import Gathered, Target
from wdtrain.store.samples import BlockIndex, decode_row, member_suffixes, parse_block
from wdtrain.store.verify import walk_blocks

Packed = Callable[..., Manifest]

needs_library = pytest.mark.skipif(native.LIBRARY is None, reason="no compiled part")


def target_of(manifest: Manifest, rows: int, size: tuple[int, int] | None = None) -> Target:
    height, width = size or (manifest.height, manifest.width)
    return Target(
        np.full((rows, height, width, 3), 7, np.uint8),
        np.full((rows, height, width), 7, np.uint8),
        np.full((rows, height, width), 7, manifest.depth.dtype),
        np.zeros((rows, tar.MAX_NAME), np.uint8),
    )


def two_blocks(manifest: Manifest) -> list[BlockIndex]:
    return [block for _, _, block in walk_blocks(manifest, manifest.split("train"))][:2]


def mixed(blocks: list[BlockIndex]) -> tuple[np.ndarray, np.ndarray]:
    """Every row of the blocks, in an order that jumps between them."""
    places = [(slot, row) for slot, block in enumerate(blocks) for row in range(block.num_samples)]
    order = np.random.default_rng(3).permutation(len(places))
    slots, rows = np.array(places)[order].T.copy()
    return slots, rows


def test_the_compiled_part_is_there_where_a_compiler_is() -> None:
    assert native.LIBRARY is not None or not (shutil.which("cc") or shutil.which("gcc"))


def test_jpegs_are_decoded_at_once_where_pillow_brings_what_it_takes() -> None:
    is_there = features.check("libjpeg_turbo") and features.version("jpg") == "6.2"
    assert native.LIBRARY is None or (native.jpeg_calls() is not None) == is_there


@needs_library
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "singly"])
@pytest.mark.parametrize("size", [None, (12, 16), (10, 30)])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("encoding", "compression"), FORMS)
def test_many_rows_at_once_equal_row_by_row(
    packed: Packed,
    encoding: str,
    compression: str,
    bits: int,
    size: tuple[int, int] | None,
    at_once: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not at_once:
        monkeypatch.setattr(native, "jpeg_calls", lambda: None)
    manifest = packed(encoding, compression, bits=bits)
    blocks = two_blocks(manifest)
    slots, rows = mixed(blocks)
    target = target_of(manifest, len(rows), size)
    gathered = Gathered(blocks, slots, rows, manifest)
    for start, stop in ((0, 3), (3, len(rows))):
        part = target.rows(start, stop)
        assert gathered.gather(start, stop, part)
        assert gathered.is_raw or gathered.decode(start, stop, part)
    suffix = member_suffixes(encoding)[0]
    for at, (slot, row) in enumerate(zip(slots, rows, strict=True)):
        arrays = decode_row(blocks[slot], row, size=size)
        for got, expected in zip(dataclasses.astuple(target)[:3], arrays, strict=True):
            np.testing.assert_array_equal(got[at], expected)
        name = f"{blocks[slot].keys[row]}.{suffix}".encode()
        assert target.names[at].tobytes() == name.ljust(tar.MAX_NAME, b"\0")


@pytest.mark.parametrize(("encoding", "compression"), FORMS)
def test_a_block_is_indexed_alike_with_and_without_the_compiled_part(
    packed: Packed, encoding: str, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = two_blocks(packed(encoding, compression))
    monkeypatch.setattr(native, "LIBRARY", None)
    for block in blocks:
        slow = parse_block(block.data, block.manifest)
        np.testing.assert_array_equal(slow.starts, block.starts)
        np.testing.assert_array_equal(slow.sizes, block.sizes)
        assert slow.keys == block.keys


def test_without_the_compiled_part_it_says_so(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = packed("image", "zstd:3")
    monkeypatch.setattr(native, "LIBRARY", None)
    blocks = two_blocks(manifest)
    gathered = Gathered(blocks, *mixed(blocks), manifest)
    assert not gathered.gather(0, 1, target_of(manifest, 1))


@needs_library
@pytest.mark.parametrize(
    "change",
    [
        {"overlay.jpg": b"\xff\xd8nothing"},
        {"overlay.jpg": triple.encode_overlay(np.zeros((8, 8, 3), np.uint8))},
        {"overlay.jpg": triple.encode_overlay(np.zeros((24, 32, 3), np.uint8))[:-40]},
        {"overlay.jpg": triple.encode_overlay(np.zeros((32, 24, 3), np.uint8))},
        {"mask.png": triple.encode_png(np.zeros((24, 32), np.uint16), stored=True)},
        {"mask.png": triple.encode_png(np.zeros((32, 24), np.uint8), stored=True)},
        {"depth.png": triple.encode_png(np.zeros((24, 32), np.uint8), stored=True)[:-30]},
        {"depth.png": b""},
    ],
)
def test_a_sample_that_is_not_what_was_packed_is_left_to_the_path_that_names_it(
    packed: Packed, change: dict[str, bytes]
) -> None:
    manifest = packed("image", "zstd:3")
    good = two_blocks(manifest)[0]
    members = dict(zip(member_suffixes("image"), map(bytes, good.members(0)), strict=True))
    data = b"".join(tar.member(f"k.{name}".encode(), d) for name, d in (members | change).items())
    block = parse_block(data, manifest)
    gathered = Gathered([block], np.zeros(1, int), np.zeros(1, int), manifest)
    target = target_of(manifest, 1)
    assert not (gathered.gather(0, 1, target) and gathered.decode(0, 1, target))


@needs_library
@pytest.mark.parametrize(("height", "width"), [(256, 257), (300, 400), (1, 65534), (1, 65535)])
def test_stored_pngs_of_several_parts_are_sliced(height: int, width: int) -> None:
    for dtype in (np.uint8, np.uint16):
        pixels = np.random.default_rng(0).integers(0, 250, (2, height, width)).astype(dtype)
        pngs = [triple.encode_png(one, stored=True) for one in pixels]
        target = np.zeros_like(pixels)
        sources = np.array([native.address_of(png) for png in pngs], np.int64)
        sizes = np.array([len(png) for png in pngs], np.int64)
        assert native.slice_pngs(sources, sizes, pngs[0][:43], target)
        np.testing.assert_array_equal(target if dtype is np.uint8 else target.byteswap(), pixels)


@needs_library
@pytest.mark.parametrize("at", [0, 20, 43, 44, 48, 48 + 33 * 5])
def test_a_stored_png_with_an_odd_byte_is_not_sliced(at: int) -> None:
    png = bytearray(triple.encode_png(np.zeros((24, 32), np.uint8), stored=True))
    prefix = bytes(png[:43])
    png[at] ^= 4
    held = bytes(png)
    source, size = np.array([native.address_of(held)]), np.array([len(held)])
    assert not native.slice_pngs(source, size, prefix, np.zeros((1, 24, 32), np.uint8))


@needs_library
def test_odd_archives_are_left_to_the_path_that_names_them() -> None:
    suffixes = ("a", "b")
    good = tar.member(b"k.a", b"1") + tar.member(b"k.b", b"22")
    found = native.index_members(good + tar.END_OF_ARCHIVE, suffixes)
    assert found is not None
    assert found[0].tolist() == [[512, 1536]]
    assert found[1].tolist() == [[1, 2]]
    for change in (
        good[:-512],
        good + b"x" * 512,
        good + b"\0" * 100 + b"x",
        tar.member(b"k.a", b"1") + tar.member(b"j.b", b""),
        tar.member(b"k.a", b"1") * 2,
        tar.member(b"k.a", b"1"),
        tar.member(b".a", b"") + tar.member(b".b", b""),
        good[:124] + b"99999999999" + good[135:],
        good[:124] + b"77777777777" + good[135:],
        good[:156] + b"5" + good[157:],
        good[:257] + b"USTAR" + good[262:],
        good[:345] + b"folder" + good[351:],
    ):
        assert native.index_members(change, suffixes) is None


@needs_library
def test_a_damaged_jpeg_among_good_ones_is_not_passed_over() -> None:
    good = triple.encode_overlay(np.full((24, 32, 3), 90, np.uint8))
    target = np.zeros((3, 24, 32, 3), np.uint8)
    for bad in (good[:-30], good[:200] + b"\xff" * 40 + good[240:], b"", good[2:], b"\xff\xd8" * 9):
        jpegs = [good, bad, good]
        sources = np.array([native.address_of(jpeg) if jpeg else 0 for jpeg in jpegs])
        sizes = np.array([len(jpeg) for jpeg in jpegs])
        assert not native.decode_jpegs(sources, sizes, (24, 32), 8, target)


@needs_library
@pytest.mark.skipif(native.jpeg_calls() is None, reason="no libjpeg-turbo of that interface")
def test_a_library_that_gives_other_pixels_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triple, "decode_overlay", lambda *_, **__: np.zeros((5, 7, 3), np.uint8))
    assert native.jpeg_calls.__wrapped__() is None
