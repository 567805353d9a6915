"""Mutated blocks, read by the compiled loops and by Python: no crash, no foreign error, no odds.

    python -m tests.store.fuzz --count 100000 --seed 0 [--library _rows.so]

Case n is a function of seed + n alone. `--library` takes loops compiled in another way, as with the
sanitizers of `test_fuzz.py`. A failure prints the number of its case and leaves its block in a
file; where the process dies, `--at FILE` holds the number.
"""

from __future__ import annotations

import argparse
import mmap
import random
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import zstandard

from tests.store.datasets import MANY, arrays_of, manifest_of, members_of
from wdtrain.disk.failures import DamagedSample, StoreError
from wdtrain.fields import DepthFormat, Field, triple_of
from wdtrain.store import frames, native, tar
from wdtrain.store.filling import Filler, MemberPlaces, RowBuffers, WindowSlice
from wdtrain.store.manifest import Manifest
from wdtrain.store.samples import (
    BlockIndex,
    decode_row,
    parse_block,
    payloads,
)

HEIGHT, WIDTH, SAMPLES = 24, 32, 4
SIZES = ((24, 32), (12, 16), (10, 30), (5, 7), (31, 40))
FIELDS: dict[str, Sequence[Field]] = {
    "8 bits": triple_of(DepthFormat(bits=8)),
    "16 bits": triple_of(DepthFormat(bits=16)),
    "many": MANY,
}
FORMS = [(e, c, f) for e in ("image", "raw") for c in ("zstd:3", "none") for f in FIELDS]
NUMBERS = (
    0,
    1,
    2,
    511,
    512,
    513,
    767,
    768,
    4095,
    2**15,
    2**16 - 1,
    2**16,
    2**31 - 1,
    2**32,
    8**11 - 1,
)


@dataclass(frozen=True)
class Base:
    """A whole block of `SAMPLES` samples, and the dataset it would be of."""

    manifest: Manifest
    data: bytes
    starts: tuple[int, ...]


@cache
def base_of(form: tuple[str, str, str], number: int) -> Base:
    encoding, compression, kinds = form
    fields = FIELDS[kinds]
    manifest = manifest_of(
        fields,
        encoding=encoding,
        compression=compression,
        size=(HEIGHT, WIDTH),
        samples_per_block=SAMPLES,
    )
    parts = []
    for sample in range(SAMPLES):
        arrays = arrays_of(fields, HEIGHT, WIDTH, SAMPLES * number + sample)
        for suffix, content in members_of(manifest, arrays).items():
            parts.append(tar.member(f"k{number}-{sample}.{suffix}".encode(), content))
    data = b"".join(parts)
    return Base(manifest, data, tuple(member.start for member in tar.walk(data)))


# ---------------------------------------------------------------------------- mutation


def mutated(base: Base, other: Base, chance: random.Random) -> bytes:
    """The block with one to four things changed: bytes anywhere, and fields that matter."""
    data = bytearray(base.data)
    deep = (_flip, _byte, _number, _png, _jpeg)  # most headers, changed, hide what lies behind
    changes = (*deep, *deep, *deep, _size_field, _name, _cut, _copy, _splice)
    for _ in range(chance.choice((1, 1, 2, 4))):
        if len(data) > tar.BLOCK:
            chance.choice(changes)(data, base, other, chance)
    return bytes(data)


def _near(data: bytearray, base: Base, chance: random.Random) -> int:
    """A place: anywhere, or close behind a member's start, where formats have their fields."""
    if chance.random() < 0.3:
        return chance.randrange(len(data))
    return min(chance.choice(base.starts) + chance.randrange(180), len(data) - 1)


def _flip(data: bytearray, base: Base, other: Base, chance: random.Random) -> None:
    data[_near(data, base, chance)] ^= 1 << chance.randrange(8)


def _byte(data: bytearray, base: Base, other: Base, chance: random.Random) -> None:
    data[_near(data, base, chance)] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))


def _size_field(data: bytearray, base: Base, other: Base, chance: random.Random) -> None:
    at = chance.choice(base.starts) - tar.BLOCK + 124
    number = chance.choice(NUMBERS)
    text = chance.choice((b"%011o", b"-%010o", b"%11o", b"+%o", b"%o\0")) % number
    data[at : at + 11] = text.ljust(11, b"\0")[:11]


def _name(data: bytearray, base: Base, other: Base, chance: random.Random) -> None:
    at = chance.choice(base.starts) - tar.BLOCK
    name = chance.choice((b"../x", b"/tmp/x", b"\xff\xfe", b"k", b"", b"a" * 100, b"k\0junk"))
    data[at : at + len(name)] = name


def _number(data: bytearray, base: Base, other: Base, chance: random.Random) -> None:
    at = _near(data, base, chance)
    form = chance.choice((">I", "<I", ">H", "<H"))
    number = chance.choice(NUMBERS) % (1 << 8 * struct.calcsize(form))
    data[at : at + struct.calcsize(form)] = struct.pack(form, number)


def _cut(data: bytearray, base: Base, other: Base, chance: random.Random) -> None:
    at = _near(data, base, chance) // chance.choice((1, 512)) * chance.choice((1, 512)) % len(data)
    del data[at : at + chance.choice((1, 100, 512, 2048, len(data)))]


def _copy(data: bytearray, base: Base, other: Base, chance: random.Random) -> None:
    at, to = (chance.randrange(len(data) // tar.BLOCK) * tar.BLOCK for _ in range(2))
    data[to:to] = data[at : at + chance.choice((512, 1024, 5120))]


def _splice(data: bytearray, base: Base, other: Base, chance: random.Random) -> None:
    at, to = _near(data, base, chance), chance.randrange(len(other.data))
    piece = other.data[to : to + chance.choice((8, 512, 4096))]
    data[at : at + len(piece)] = piece


def _png(data: bytearray, base: Base, other: Base, chance: random.Random) -> None:
    """A PNG with a byte changed and checksums that fit again, or pixels deflated anew."""
    at = data.find(b"\x89PNG", chance.randrange(len(data)))
    idat = data.find(b"IDAT", at) if at >= 0 else -1
    if idat < 0:
        return
    end = idat + 4 + int.from_bytes(data[idat - 4 : idat], "big")
    place = chance.choice((at + 16 + chance.randrange(13), idat + 4 + chance.randrange(60)))
    if place < len(data):
        data[place] ^= 1 << chance.randrange(8)
    for first, last in ((at + 12, at + 29), (idat, end)):
        if last + 4 <= len(data):
            data[last : last + 4] = struct.pack(">I", zlib.crc32(bytes(data[first:last])))


def _jpeg(data: bytearray, base: Base, other: Base, chance: random.Random) -> None:
    """A marker's length, a component, a table or the pixels of a JPEG changed."""
    at = data.find(b"\xff" + bytes([chance.choice((0xC0, 0xC4, 0xDA, 0xDB, 0xE0, 0xD9))]))
    if at >= 0:
        place = min(at + chance.randrange(1, 24), len(data) - 1)
        data[place] = chance.choice((0, 1, 3, 17, 255, chance.randrange(256)))


# ---------------------------------------------------------------------------- judgement


def case(number: int) -> tuple[Base, bytes, random.Random]:
    chance = random.Random(number)
    base = base_of(chance.choice(FORMS), chance.randrange(3))
    other = base_of(chance.choice(FORMS), chance.randrange(3))
    return base, mutated(base, other, chance), chance


def alone(data: bytes) -> memoryview:
    """Bytes in memory of exactly their size: what is read beyond them is seen by a sanitizer."""
    array = np.empty(len(data), np.uint8)
    array[:] = np.frombuffer(data, np.uint8)
    return memoryview(array)


def parsed(data: bytes, manifest: Manifest) -> BlockIndex | str:
    try:
        return parse_block(alone(data), manifest)
    except StoreError as error:
        return str(error)


def judge(number: int) -> str:
    """What came of a case: an AssertionError or any foreign error is a finding."""
    base, data, chance = case(number)
    block, library = parsed(data, base.manifest), native.LIBRARY
    native.LIBRARY = None  # type: ignore[misc]
    try:
        slow = parsed(data, base.manifest)
    finally:
        native.LIBRARY = library  # type: ignore[misc]
    if base.manifest.is_compressed and native.zstd() is not None:
        check_loaded(base, data, block, chance)
    if isinstance(block, str) or isinstance(slow, str):
        assert block == slow, "one way reads what the other does not"
        return "block refused"
    assert np.array_equal(block.starts, slow.starts)
    assert np.array_equal(block.sizes, slow.sizes)
    assert block.keys == slow.keys
    names = [name for name in base.manifest.fields if chance.random() < 0.8]
    left_out = check_rows(block, chance.choice(SIZES), names or [*base.manifest.fields])
    return "samples refused" if left_out else "read"


def check_rows(block: BlockIndex, size: tuple[int, int], names: list[str]) -> int:
    """The samples left out: a row that is filled at once is what row by row gives."""
    count, manifest = block.num_samples, block.manifest
    arrays = {
        name: np.empty((count, *field.shape(*size)), field.dtype)
        for name, field in manifest.fields.items()
        if name in names
    }
    target = RowBuffers(arrays, np.empty((count, tar.MAX_NAME), np.uint8))
    left_out = 0
    if native.LIBRARY is not None and count:
        rows = MemberPlaces.of_blocks([block], np.zeros(count, int), np.arange(count), manifest)
        filler = Filler(manifest, size, fields=names)
        is_whole = filler.fill([WindowSlice(rows, 0, count, 0)], target).parts
    for row in range(count):
        is_filled = native.LIBRARY is not None and (
            is_whole or filler.fill([WindowSlice(rows, row, 1, row)], target).parts
        )
        try:
            arrays = decode_row(block, row, size=size, fields=names)
        except DamagedSample as error:
            if is_filled:
                raise AssertionError(f"filled, and refused by Python: {error}") from error
            left_out += 1
            continue
        for name, expected in arrays.items():
            assert not is_filled or np.array_equal(target.arrays[name][row], expected), (
                "other pixels"
            )
    return left_out


def check_loaded(base: Base, data: bytes, block: BlockIndex | str, chance: random.Random) -> None:
    """Loading at once gives what inflating and parsing give, or nothing; also of torn frames."""
    frame = bytearray(zstandard.ZstdCompressor(level=1, write_checksum=True).compress(data))
    checksum, is_torn = frames.frame_checksum(frame), chance.random() < 0.5
    if is_torn:
        for _ in range(chance.choice((1, 3))):
            frame[chance.randrange(len(frame))] ^= 1 << chance.randrange(8)
    size = len(data) + chance.choice((0, 0, 0, 512, -512))
    samples = block.num_samples if isinstance(block, BlockIndex) else SAMPLES
    packed, room = np.frombuffer(alone(bytes(frame)), np.uint8), np.empty(max(size, 1), np.uint8)
    suffixes = base.manifest.member_suffixes
    starts, sizes = np.empty((2, samples, len(suffixes)), np.int64)
    ends = payloads(base.manifest) if base.manifest.encoding == "raw" else None
    entry = (-1, 0, native.at(packed), len(frame), native.at(room), max(size, 0), checksum, samples,
             native.at(starts), native.at(sizes))  # fmt: skip
    if samples and native.load(native.Members.of(suffixes, ends), [entry])[0]:
        assert bytes(room[:size]) == bytes(frames.inflate(bytes(frame), size=size)), "other bytes"
        # Whether raw arrays begin as they must is looked at by the loader, in Python.
        is_raw = base.manifest.encoding == "raw"
        assert is_raw or bytes(room[:size]) != data or isinstance(block, BlockIndex), "loaded"
        if isinstance(block, BlockIndex) and bytes(room[:size]) == data:
            assert np.array_equal(starts, block.starts)
            assert np.array_equal(sizes, block.sizes)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--library", type=Path)
    parser.add_argument("--at", type=Path, help="a file of 8 bytes that says how far it is")
    parser.add_argument("--write", type=int, metavar="NUMBER", help="write one case, and stop")
    options = parser.parse_args()
    if options.write is not None:
        base, data, _ = case(options.write)
        path = Path(f"fuzz-{options.write}.bin")
        path.write_bytes(data)
        print(f"{path}: {base.manifest.encoding}, {base.manifest.compression}")
        return 0
    if options.library:
        native.LIBRARY = native.open_library(options.library)  # type: ignore[misc]
    place = None
    if options.at:
        options.at.write_bytes(bytes(8))
        with options.at.open("r+b") as file:
            place = mmap.mmap(file.fileno(), 8)
    found: Counter[str] = Counter()
    for number in range(options.seed, options.seed + options.count):
        if place is not None:
            place[:] = struct.pack("<q", number)
        try:
            found[judge(number)] += 1
        except BaseException:
            Path(f"fuzz-{number}.bin").write_bytes(case(number)[1])
            print(f"case {number} failed; its block lies in fuzz-{number}.bin", file=sys.stderr)
            raise
    counts = ", ".join(f"{count} {what}" for what, count in sorted(found.items()))
    print(f"{options.count} blocks: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
