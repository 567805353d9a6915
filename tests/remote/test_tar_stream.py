"""Other people's tars are walked as Python's tarfile walks them, or refused by name."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.disk.failures import StoreError
from wdtrain.remote.braces import expand_braces
from wdtrain.remote.tar_stream import CompressedTar, TarStream, split_name

FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
Entry = tuple[str, bytes]


def made(entries: list[Entry], *, format: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def walked(data: bytes, size: int = 1 << 20) -> list[Entry]:
    stream = TarStream(pieces(data, size), "some.tar")
    found = []
    for member in stream:
        content = b"".join(stream.payload())
        assert data[member.start : member.start + member.size] == content
        found.append((member.name, content))
    return found


def by_tarfile(data: bytes) -> list[Entry]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        return [(m.name, tar.extractfile(m).read()) for m in tar if m.isreg()]  # type: ignore[union-attr]


names = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40).filter(
        lambda part: part.strip(".")
    ),
    min_size=1,
    max_size=9,
).map("/".join)


@given(
    st.lists(st.tuples(names, st.binary(max_size=1500)), max_size=4),
    st.sampled_from(FORMATS[1:]),
    st.integers(1, 3000),
)
def test_walks_what_tarfile_wrote_in_pieces_of_any_size(
    entries: list[Entry], format: int, size: int
) -> None:
    data = made(entries, format=format)
    assert walked(data, size) == entries == by_tarfile(data)


def test_long_names_of_each_format() -> None:
    for format, name in (
        (tarfile.USTAR_FORMAT, "a" * 120 + "/" + "b" * 99),
        (tarfile.GNU_FORMAT, "ä" * 300 + ".jpg"),
        (tarfile.PAX_FORMAT, "d/" * 200 + "key.seg.png"),
    ):
        data = made([(name, b"1"), ("short.jpg", b"22")], format=format)
        assert walked(data) == [(name, b"1"), ("short.jpg", b"22")] == by_tarfile(data)


def test_passes_over_links_folders_and_devices() -> None:
    buffer = io.BytesIO()
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for number, kind in enumerate(kinds):
            info = tarfile.TarInfo(f"{'x' * 150 * (number % 2)}{number}")
            info.type, info.linkname = kind, "/etc/" + "passwd" * 40
            tar.addfile(info)
            file = tarfile.TarInfo(f"file-{number}.jpg")
            file.size = 3
            tar.addfile(file, io.BytesIO(b"abc"))
    assert walked(buffer.getvalue()) == [(f"file-{number}.jpg", b"abc") for number in range(5)]


def test_a_size_in_base_256_or_in_a_pax_header_is_understood() -> None:
    data = bytearray(made([("a.jpg", b"x" * 700), ("b.jpg", b"yy")]))
    data[124:136] = (1 << 95 | 700).to_bytes(12, "big")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    assert walked(bytes(data)) == [("a.jpg", b"x" * 700), ("b.jpg", b"yy")]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size, info.pax_headers = 5, {"size": "5", "comment": "of no matter\nhere"}
        tar.addfile(info, io.BytesIO(b"12345"))
    assert walked(buffer.getvalue()) == [("a.jpg", b"12345")]


@pytest.mark.parametrize(
    ("magic", "how"), [(b"\x1f\x8b\x08", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd")]
)
def test_a_compressed_tar_is_said_to_be_one(magic: bytes, how: str) -> None:
    with pytest.raises(CompressedTar, match=f"some.tar is compressed .{how}"):
        walked(magic + bytes(600))


@pytest.mark.parametrize("cut", [1, 511, 513, 1000, 1536 + 300])
def test_a_tar_that_was_cut_off_is_refused_with_the_place(cut: int) -> None:
    data = made([("a.jpg", b"x" * 700), ("b.jpg", b"y" * 700)])
    with pytest.raises(
        StoreError, match=r"some.tar has, at byte [\d,]+, .*its end.*fetch it again"
    ):
        walked(data[:cut])


def test_a_tar_without_its_last_zeros_or_padding_is_whole() -> None:
    data = made([("a.jpg", b"x" * 700), ("b.jpg", b"y" * 700)])
    for end in (2 * 1536, 1536 + 512 + 700):
        assert len(walked(data[:end])) == 2


def test_what_lies_behind_the_end_is_no_part_of_it() -> None:
    data = made([("a.jpg", b"x")])
    assert walked(data + made([("b.jpg", b"y")])) == [("a.jpg", b"x")] == by_tarfile(data)


def test_any_changed_byte_of_a_header_is_found() -> None:
    data = made([("a.jpg", b"x" * 20)])
    for at in range(0, 512):
        spoilt = bytearray(data)
        spoilt[at] ^= 0x15
        if 148 <= at < 156:  # the checksum itself: blanks and zeros around its digits may differ
            continue
        with pytest.raises(StoreError):
            walked(bytes(spoilt))


def test_a_hostile_header_takes_no_memory() -> None:
    """Whatever length it claims for a name, and for a file that is passed over."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 8**11 - 1
    tracemalloc.start()
    with pytest.raises(StoreError, match="a name or header of 8,589,934,591 bytes"):
        walked(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20), 1 << 16)
    info = tarfile.TarInfo("big.jpg")
    info.size = 1 << 27
    zeros = [bytes(1 << 16)] * 2049
    stream = TarStream(iter([info.tobuf(tarfile.GNU_FORMAT), *zeros]), "big.tar")
    assert [member.size for member in stream] == [1 << 27]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (b"99 path=x\n", "cannot be read"),
        (b"12 size=-10\n", "the size '-10'"),
        (b"24 GNU.sparse.major=1.0\n", "sparse"),
        (b"no record", "cannot be read"),
    ],
)
def test_a_pax_header_that_cannot_be_is_refused(record: bytes, said: str) -> None:
    info = tarfile.TarInfo("p")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    data = info.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + made([("a.jpg", b"x")])
    with pytest.raises(StoreError, match=said):
        walked(data)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0001.jpg", ("0001", "jpg")),
        ("dir.v1/0001.SEG.Png", ("dir.v1/0001", "seg.png")),
        ("./a b/0001.jpg", ("a b/0001", "jpg")),
        ("README", None),
        ("dir/.hidden.jpg", None),
        ("._0001.jpg", None),
    ],
)
def test_names_are_cut_as_webdataset_cuts_them(name: str, expected: object) -> None:
    assert split_name(name) == expected
    if expected is not None and not name.startswith("./"):
        from webdataset.tariterators import base_plus_ext

        key, ending = base_plus_ext(name)
        assert split_name(name) == (key, ending.lower())


@pytest.mark.parametrize(
    "name",
    ["data-{0000..0011}.tar", "data-{8..12}.tar", "{a,b}/x-{1..2}.tar", "a.tar", "{98..102}"],
)
def test_braces_are_those_of_the_webdataset_library(name: str) -> None:
    import braceexpand

    assert expand_braces(name) == list(braceexpand.braceexpand(name))


@pytest.mark.parametrize(
    "name", ["a{1..", "a{b}", "{3..1}", "{1..999999999}", "{0..2000}{0..3000}"]
)
def test_braces_that_mean_nothing_are_refused(name: str) -> None:
    with pytest.raises(StoreError):
        expand_braces(name)
