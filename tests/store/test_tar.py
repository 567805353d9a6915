"""Tar members written by hand are those of everybody's tar, and are walked back exactly."""

from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wdtrain.store import tar

NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,40}\.(overlay\.jpg|json)", fullmatch=True)
MEMBERS = st.lists(st.tuples(NAMES, st.binary(max_size=2000)), min_size=1, max_size=8)


def archive(members: list[tuple[str, bytes]]) -> bytes:
    parts = [tar.member(name.encode(), data) for name, data in members]
    return b"".join([*parts, tar.END_OF_ARCHIVE])


@given(MEMBERS)
def test_tarfile_reads_what_is_written(members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(members))) as file:
        got = []
        for entry in file.getmembers():
            data = file.extractfile(entry)
            assert data is not None
            got.append((entry.name, data.read()))
            owner = (entry.mode, entry.uid, entry.gid, entry.mtime, entry.uname, entry.gname)
            assert owner == (0o644, 0, 0, 0, "", "")
    assert got == members


@given(MEMBERS)
def test_walk_finds_each_member_where_it_lies(members: list[tuple[str, bytes]]) -> None:
    data = archive(members)
    found = tar.walk(data)
    assert [(m.name, data[m.start : m.start + m.size]) for m in found] == members


@given(MEMBERS)
def test_walk_reads_what_tarfile_writes(members: list[tuple[str, bytes]]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as file:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    written = buffer.getvalue()
    found = tar.walk(written)
    assert [(m.name, written[m.start : m.start + m.size]) for m in found] == members


def test_long_names_go_into_the_prefix_and_come_back() -> None:
    name = "a" * 90 + "/" + "b" * 99
    data = tar.member(name.encode(), b"x") + tar.END_OF_ARCHIVE
    with tarfile.open(fileobj=io.BytesIO(data)) as file:
        assert file.getnames() == [name]
    assert [member.name for member in tar.walk(data)] == [name]


@pytest.mark.parametrize("name", [b"a" * 101, b"a" * 160 + b"/b", b"a/" + b"b" * 101])
def test_refuses_names_that_ustar_cannot_hold(name: bytes) -> None:
    with pytest.raises(tar.TarError, match="shorten the key"):
        tar.member(name, b"")


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (257, b"xxxxx", "no plain ustar"),
        (156, b"2", "no plain ustar"),
        (124, b"77777777777", "past"),
    ],
)
def test_walk_refuses_what_no_packer_writes(at: int, value: bytes, why: str) -> None:
    data = bytearray(tar.member(b"a.json", b"{}"))
    data[at : at + len(value)] = value
    with pytest.raises(tar.TarError, match=why):
        tar.walk(bytes(data))


def test_walk_refuses_bytes_after_the_end() -> None:
    data = tar.member(b"a.json", b"{}") + tar.END_OF_ARCHIVE + b"more"
    with pytest.raises(tar.TarError, match="after the last member"):
        tar.walk(data)
