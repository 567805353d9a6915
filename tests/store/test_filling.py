"""Many rows at once give what row by row gives, compiled or not, and never hide a damage."""

from __future__ import annotations

import dataclasses
import shutil
import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import features

from tests.disks import FORMS
from wdtrain.fields.jpeg import encode_jpeg
from wdtrain.fields.png import encode_png
from wdtrain.packing.verify import walk_blocks
from wdtrain.store import native, tar
from wdtrain.store.filling import Filler, MemberPlaces, RowBuffers, WindowSlice, copied_columns
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import BlockIndex, decode_row, parse_block, payloads

Packed = Callable[..., Manifest]


def few_lines() -> bytes:
    """A PNG of 24 lines, of which there are 20."""
    whole = encode_png(np.zeros((24, 32), np.uint8))
    data = b"IDAT" + zlib.compress(bytes([2, *bytes(32)]) * 20)
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    return whole[:33] + chunk + whole[-12:]


FEWER_LINES = few_lines()
NOISY = encode_jpeg(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8))
FILTERS = ("NONE", "SUB", "UP", "AVG", "PAETH")
needs_library = pytest.mark.skipif(native.LIBRARY is None, reason="no compiled part")


def target_of(manifest: Manifest, rows: int, size: tuple[int, int] | None = None) -> RowBuffers:
    height, width = size or (manifest.height, manifest.width)
    arrays = {
        name: np.full((rows, *field.shape(height, width)), 7, field.dtype)
        for name, field in manifest.fields.items()
    }
    return RowBuffers(arrays, np.zeros((rows, tar.MAX_NAME), np.uint8))


def two_blocks(manifest: Manifest) -> list[BlockIndex]:
    return [block for _, _, block in walk_blocks(manifest, manifest.split("train"))][:2]


def mixed(blocks: list[BlockIndex]) -> tuple[np.ndarray, np.ndarray]:
    """Every row of the blocks, in an order that jumps between them."""
    places = [(slot, row) for slot, block in enumerate(blocks) for row in range(block.num_samples)]
    order = np.random.default_rng(3).permutation(len(places))
    slots, rows = np.array(places)[order].T.copy()
    return slots, rows


def stored_sample(manifest: Manifest) -> dict[str, bytes]:
    """The members of a good sample by their suffixes."""
    members = map(bytes, two_blocks(manifest)[0].members(0))
    return dict(zip(manifest.member_suffixes, members, strict=True))


def archive(members: dict[str, bytes]) -> bytes:
    """A block of one sample."""
    return b"".join(tar.member(f"k.{name}".encode(), data) for name, data in members.items())


def window_of(manifest: Manifest, members: dict[str, bytes]) -> MemberPlaces:
    """One row, of these members, as a block of a dataset holds them."""
    block = parse_block(archive(members), manifest)
    return MemberPlaces.of_blocks([block], np.zeros(1, int), np.zeros(1, int), manifest)


def filled(manifest: Manifest, members: dict[str, bytes], target: RowBuffers | None = None) -> int:
    """How many of one part were filled: 0 where the sample is unusual."""
    filler = Filler(manifest, (manifest.height, manifest.width))
    part = WindowSlice(window_of(manifest, members), 0, 1, 0)
    return filler.fill([part], target or target_of(manifest, 1)).parts


def test_the_compiled_part_is_there_where_a_compiler_is() -> None:
    assert native.LIBRARY is not None or not (shutil.which("cc") or shutil.which("gcc"))


def test_jpegs_are_decoded_at_once_where_pillow_brings_what_it_takes() -> None:
    is_there = features.check("libjpeg_turbo") and features.version("jpg") == "6.2"
    assert native.LIBRARY is None or (native.jpeg_calls() is not None) == is_there


def hide(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where another package or Python does not show this library of its own."""
    if name != "nothing":
        monkeypatch.setattr(native, name, lambda: None)


hidden = pytest.mark.parametrize("hidden", ["nothing", "jpeg_calls", "zlib_calls"])


@needs_library
@hidden
@pytest.mark.parametrize("size", [None, (6, 8), (12, 16), (10, 30), (24, 30), (31, 40)])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("encoding", "compression"), FORMS)
def test_many_rows_at_once_equal_row_by_row(
    packed: Packed,
    encoding: str,
    compression: str,
    bits: int,
    size: tuple[int, int] | None,
    hidden: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hide(hidden, monkeypatch)
    manifest = packed(encoding, compression, bits=bits)
    blocks = two_blocks(manifest)
    slots, rows = mixed(blocks)
    target = target_of(manifest, len(rows), size)
    window = MemberPlaces.of_blocks(blocks, slots, rows, manifest)
    parts = [WindowSlice(window, 3, len(rows) - 3, 3), WindowSlice(window, 0, 3, 0)]
    filler = Filler(manifest, size or (manifest.height, manifest.width))
    assert filler.fill(parts, target).parts == len(parts)
    suffix = manifest.member_suffixes[0]
    for at, (slot, row) in enumerate(zip(slots, rows, strict=True)):
        arrays = decode_row(blocks[slot], row, size=size)
        for field, expected in arrays.items():
            np.testing.assert_array_equal(target.arrays[field][at], expected)
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


def test_without_the_compiled_part_nothing_is_found_and_nothing_is_alike(
    packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = two_blocks(packed("raw", "none"))[0]
    stride = len(block.data) // block.num_samples
    alike = block.data, stride, block.starts, block.sizes, payloads(block.manifest)
    found = block.data, block.manifest.member_suffixes
    assert native.LIBRARY is None or (native.are_alike(*alike) and native.index_members(*found))
    monkeypatch.setattr(native, "LIBRARY", None)
    assert not native.are_alike(*alike)
    assert native.index_members(*found) is None


@needs_library
@hidden
@pytest.mark.parametrize("compression", ["zstd:3", "none"])
@pytest.mark.parametrize(
    "change",
    [
        {"overlay.jpg": b"\xff\xd8nothing"},
        {"overlay.jpg": encode_jpeg(np.zeros((8, 8, 3), np.uint8))},
        {"overlay.jpg": NOISY[:-40]},
        {"overlay.jpg": NOISY[:-2]},
        {"overlay.jpg": NOISY[:-60] + NOISY[-20:]},
        {"overlay.jpg": encode_jpeg(np.zeros((32, 24, 3), np.uint8))},
        {"mask.png": encode_png(np.zeros((24, 32), np.uint16), stored=True)},
        {"mask.png": encode_png(np.zeros((32, 24), np.uint8), stored=True)},
        {"mask.png": encode_png(np.zeros((36, 21), np.uint8), stored=True)},  # as many bytes
        {"mask.png": encode_png(np.tile(2 + 2 * np.arange(36, dtype=np.uint8), (21, 1)).T)},
        {"mask.png": FEWER_LINES},
        {"depth.png": encode_png(np.zeros((24, 32), np.uint8), stored=True)[:-30]},
        {"depth.png": b""},
    ],
)
def test_a_sample_that_is_not_what_was_packed_is_left_to_the_path_that_names_it(
    packed: Packed,
    compression: str,
    change: dict[str, bytes],
    hidden: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hide(hidden, monkeypatch)
    manifest = packed("image", compression)
    members = stored_sample(manifest)
    assert filled(manifest, members) == 1
    assert filled(manifest, members | change) == 0


@needs_library
@hidden
@pytest.mark.parametrize("size", [(24, 32), (12, 16)])
@pytest.mark.parametrize("compression", ["zstd:3", "none"])
def test_parts_are_filled_in_turn_until_one_is_unusual(
    packed: Packed,
    compression: str,
    size: tuple[int, int],
    hidden: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hide(hidden, monkeypatch)
    manifest = packed("image", compression)
    members = stored_sample(manifest)
    good = window_of(manifest, members)
    bad = window_of(manifest, members | {"depth.png": b"no picture"})
    target = target_of(manifest, 5, size)
    parts = [WindowSlice(good, 0, 1, 3), WindowSlice(bad, 0, 1, 1), WindowSlice(good, 0, 1, 0)]
    assert Filler(manifest, size).fill(parts, target).parts == 1
    names = [row.tobytes().rstrip(b"\0") for row in target.names]
    assert names[3] == b"k.overlay.jpg"
    for row in (0, 2, 4):
        assert names[row] == b""
        assert all((array[row] == 7).all() for array in target.arrays.values())


@needs_library
def test_raw_rows_known_by_their_addresses_alone_are_the_same(packed: Packed) -> None:
    manifest = packed("raw", "none", bits=16)
    block = two_blocks(manifest)[0]
    count, rows = block.num_samples, np.arange(block.num_samples)[::-1].copy()
    stride = len(block.data) // count
    columns = copied_columns(block)[:, None] + native.address_of(block.data)
    addresses = np.ascontiguousarray(columns + stride * rows)
    known, indexed = target_of(manifest, count), target_of(manifest, count)
    filler = Filler(manifest, (manifest.height, manifest.width))
    windows = (
        MemberPlaces(addresses, None, block),
        MemberPlaces.of_blocks([block], np.zeros(count, int), rows, manifest),
    )
    for window, target in zip(windows, (known, indexed), strict=True):
        assert filler.fill([WindowSlice(window, 0, count, 0)], target).parts == 1
    np.testing.assert_array_equal(known.names, indexed.names)
    for name, array in known.arrays.items():
        np.testing.assert_array_equal(array, indexed.arrays[name])


def test_rows_beyond_the_end_of_a_window_are_refused(packed: Packed) -> None:
    window = window_of(packed("image", "zstd:3"), stored_sample(packed("image", "zstd:3")))
    for start, rows in ((-1, 1), (0, 2), (1, 1)):
        with pytest.raises(AssertionError, match="beyond the end"):
            window.piece(start, rows, 0)


@needs_library
@pytest.mark.parametrize(
    ("height", "width"), [(256, 257), (300, 400), (255, 256), (256, 255), (255, 128), (2, 40_000)]
)
def test_stored_pngs_of_several_parts_are_sliced(packed: Packed, height: int, width: int) -> None:
    for bits in (8, 16):
        manifest = packed("image", "zstd:3", bits=bits)
        manifest = dataclasses.replace(manifest, height=height, width=width)
        rng, shape = np.random.default_rng(0), (height, width)
        mask = rng.integers(0, 250, shape).astype(np.uint8)
        depth = rng.integers(0, 1 << bits, shape).astype(manifest.fields["depth"].dtype)
        members = {
            "overlay.jpg": encode_jpeg(np.full((*shape, 3), 90, np.uint8)),
            "mask.png": encode_png(mask, stored=True),
            "depth.png": encode_png(depth, stored=True),
            "json": b"{}",
        }
        target = target_of(manifest, 1)
        assert filled(manifest, members, target) == 1
        np.testing.assert_array_equal(target.arrays["mask"][0], mask)
        np.testing.assert_array_equal(target.arrays["depth"][0], depth)


@needs_library
@pytest.mark.parametrize("name", ["mask.png", "depth.png"])
@pytest.mark.parametrize("at", [0, 20, 43, 44, 48, 48 + 33 * 5])
def test_a_stored_png_with_an_odd_byte_is_not_sliced(packed: Packed, name: str, at: int) -> None:
    manifest = packed("image", "zstd:3")
    members = stored_sample(manifest)
    png = bytearray(members[name])
    png[at] ^= 4
    assert filled(manifest, members | {name: bytes(png)}) == 0


@needs_library
@hidden
@pytest.mark.parametrize("bits", [8, 16])
def test_a_flipped_bit_of_a_deflated_png_never_gives_other_pixels(
    packed: Packed, bits: int, hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(hidden, monkeypatch)
    manifest = packed("image", "none", bits=bits)
    members, good = stored_sample(manifest), target_of(manifest, 1)
    assert filled(manifest, members, good) == 1
    for name in ("mask.png", "depth.png"):
        for at in range(len(members[name])):
            png, target = bytearray(members[name]), target_of(manifest, 1)
            png[at] ^= 1 << at % 8
            if filled(manifest, members | {name: bytes(png)}, target):
                np.testing.assert_array_equal(target.arrays["mask"], good.arrays["mask"])
                np.testing.assert_array_equal(target.arrays["depth"], good.arrays["depth"])


@needs_library
@pytest.mark.parametrize("cut", [1, 12, 24, 57, 60])
def test_a_deflated_png_that_is_cut_off_is_not_unpacked(packed: Packed, cut: int) -> None:
    manifest = packed("image", "none")
    members = stored_sample(manifest)
    for name in ("mask.png", "depth.png"):
        assert filled(manifest, members | {name: members[name][:-cut]}) == 0
        assert filled(manifest, members | {name: members[name][:cut]}) == 0


@needs_library
@hidden
def test_pngs_that_another_program_wrote_are_left_or_read_as_they_are(
    packed: Packed, hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(hidden, monkeypatch)
    manifest = packed("image", "none")
    members, mask = stored_sample(manifest), np.tile(np.arange(32, dtype=np.uint8), (24, 1))
    filters = [getattr(cv2, f"IMWRITE_PNG_FILTER_{name}") for name in FILTERS]
    for of_all_lines in filters:
        choice = [cv2.IMWRITE_PNG_FILTER, of_all_lines]
        png, target = cv2.imencode(".png", mask, choice)[1].tobytes(), target_of(manifest, 1)
        if filled(manifest, members | {"mask.png": png}, target):
            np.testing.assert_array_equal(target.arrays["mask"][0], mask)


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
    good, calls = NOISY, native.jpeg_calls()
    target = np.zeros((3, 24, 32, 3), np.uint8)
    for bad in (
        good[:-30],
        good[:-60] + good[-30:],
        good[:200] + b"\xff" * 40 + good[240:],
        b"",
        good[2:],
        b"\xff\xd8" * 9,
    ):
        jpegs = [good, bad, good]
        sources = np.array([native.address_of(jpeg) if jpeg else 0 for jpeg in jpegs])
        sizes = np.array([len(jpeg) for jpeg in jpegs])
        assert not native.decode_jpegs(calls, sources, sizes, (24, 32), 8, target)


@needs_library
@hidden
@pytest.mark.parametrize("compression", ["zstd:3", "none"])
def test_a_jpeg_that_has_the_size_only_at_a_scale_is_not_taken(
    packed: Packed, compression: str, hidden: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(hidden, monkeypatch)
    manifest = packed("image", compression)
    members, target = stored_sample(manifest), target_of(manifest, 1, (12, 16))
    for stored, expected in (((24, 32), 1), ((23, 32), 0), ((24, 31), 0)):
        jpeg = encode_jpeg(np.zeros((*stored, 3), np.uint8))
        part = WindowSlice(window_of(manifest, members | {"overlay.jpg": jpeg}), 0, 1, 0)
        assert Filler(manifest, (12, 16)).fill([part], target).parts == expected


@needs_library
@given(data=st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_jpeg_gives_what_row_by_row_gives_or_is_left_to_it(
    packed: Packed, data: st.DataObject
) -> None:
    manifest = packed("image", "zstd:3")
    jpeg, place = bytearray(NOISY), st.integers(0, len(NOISY) - 1)
    if data.draw(st.booleans()):
        start = data.draw(place)
        del jpeg[start : start + data.draw(st.integers(1, 60))]
    else:
        jpeg[data.draw(place)] ^= 1 << data.draw(st.integers(0, 7))
    members = stored_sample(manifest) | {"overlay.jpg": bytes(jpeg)}
    target = target_of(manifest, 1)
    if filled(manifest, members, target):
        block = parse_block(archive(members), manifest)
        np.testing.assert_array_equal(target.arrays["overlay"][0], decode_row(block, 0)["overlay"])


@needs_library
@pytest.mark.skipif(native.jpeg_calls() is None, reason="no libjpeg-turbo of that interface")
def test_a_library_that_gives_other_pixels_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "decode_jpeg", lambda *_, **__: np.zeros((5, 7, 3), np.uint8))
    assert native.jpeg_calls.__wrapped__() is None
