"""Other people's tars: each member is found, in the order in which they lie, and read by itself."""

from __future__ import annotations

import glob
import gzip
import json
import pickle
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.remote.servers import FaultyServer
from tests.sources.people import coded, figure, photo, shard, write_tar
from wdtrain.disk.failures import StoreError
from wdtrain.fields import FieldError
from wdtrain.remote import extents
from wdtrain.remote.access import LocalFile
from wdtrain.remote.tar_stream import CompressedTar, Endings
from wdtrain.remote.unpacking import refusal, unpacked, unpacking, unpacking_of_folder
from wdtrain.remote.urls import redacted
from wdtrain.sources import packed_tars, tar_source
from wdtrain.sources.field_options import parse_field
from wdtrain.sources.tar_source import TarSource

IMAGE, MASK = "image=image:jpg", "mask=mask:seg.png"
COUNT = 10


def source_of(text: object, *fields: str) -> TarSource:
    return TarSource(str(text), [parse_field(line) for line in fields])


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    for number in range(2):
        write_tar(tmp_path / f"data-{number:04d}.tar", shard(range(5 * number, 5 * number + 5)))
    return tmp_path


def test_gives_the_members_in_the_order_of_the_tars(tars: Path) -> None:
    source = source_of(tars / "data-{0000..0001}.tar", IMAGE, MASK)
    assert [source.key(index) for index in range(len(source))] == [f"{n:06d}" for n in range(COUNT)]
    for index in range(COUNT):
        sample = source.load(index)
        assert sample.arrays["image"] == coded(photo(index), "JPEG")
        np.testing.assert_array_equal(sample.arrays["mask"], figure(index) * np.uint8(255))
        assert sample.meta == {"number": index, "name": f"{index:06d}"}
    assert source_of(tars / "*.tar", IMAGE).key(7) == source.key(7)


@pytest.mark.filterwarnings("ignore")  # other people's code warns as it likes
def test_the_pixels_are_those_that_the_webdataset_library_reads(tars: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    source = source_of(tars / "data-{0000..0001}.tar", IMAGE, MASK)
    urls = str(tars / "data-{0000..0001}.tar")
    theirs = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert [each["__key__"] for each in theirs] == [source.name(n) for n in range(len(source))]
    for index, each in enumerate(theirs):
        assert source.load(index).arrays["image"] == each["jpg"]


def test_names_that_come_again_in_another_tar_are_told_apart(tmp_path: Path) -> None:
    for number in range(2):
        members = shard(range(5 * number, 5 * number + 5), start=5 * number)
        write_tar(tmp_path / f"part {number}.tar", members)
    source = source_of(tmp_path / "part {0,1}.tar", IMAGE)
    keys = [source.key(index) for index in range(len(source))]
    assert (keys[0], keys[5]) == ("part-_200__000000", "part-_201__000000")
    assert len(set(keys)) == COUNT
    assert source.load(5).arrays["image"] == coded(photo(5), "JPEG")


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_and_folders_are_of_the_key(tmp_path: Path, form: int) -> None:
    above = "a folder/" + "x" * 60 + "/" + "y" * 60
    members = [(f"{above}/7.jpg", coded(photo(7), "JPEG")), (f"{above}/7.seg.png", b"")]
    write_tar(tmp_path / "long.tar", members, format=form)
    source = source_of(tmp_path / "long.tar", IMAGE)
    assert source.name(0) == f"{above}/7"
    assert len(f"{source.key(0)}.image.jpg") <= 100
    assert source.load(0).meta["name"] == f"{above}/7"


def test_what_lacks_a_member_is_a_reject_and_others_are_left_out(tmp_path: Path) -> None:
    members = [each for each in shard(range(4)) if each[0] != "000002.seg.png"]
    write_tar(tmp_path / "d.tar", [("README", b"hello"), *members])
    source = source_of(tmp_path / "d.tar", IMAGE, MASK)
    assert len(source) == 4
    with pytest.raises(FieldError) as refused:
        source.load(2)
    assert "missing mask: its tar has no 000002.seg.png" in str(refused.value)
    assert "--field 'mask=mask:seg.png,optional'" in str(refused.value)
    assert set(source_of(tmp_path / "d.tar", IMAGE, MASK + ",optional").load(2).arrays) == {"image"}
    assert source.passed_over.first == ["README"]


def test_an_ending_that_there_is_not_is_refused_with_those_there_are(tars: Path) -> None:
    with pytest.raises(StoreError) as refused:
        source_of(tars / "data-0000.tar", IMAGE, "mask=mask:mask.png")
    assert "no member that ends in .mask.png (mask); its members end in seg.png" in str(
        refused.value
    )


def test_a_compressed_tar_is_refused_with_the_command_that_unpacks_it(tars: Path) -> None:
    plain = tars / "data-0000.tar"
    packed = tars / "data.tar.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(StoreError) as refused:
        source_of(packed, IMAGE)
    command = str(refused.value).rpartition("take what is there then: ")[2]
    subprocess.run(["bash", "-c", command], check=True)
    assert (tars / "data.tar").read_bytes() == plain.read_bytes()


@pytest.mark.parametrize("cut", [100, 700, -520])
def test_a_tar_that_was_cut_off_is_refused_by_name(tars: Path, cut: int) -> None:
    path = tars / "data-0001.tar"
    data = path.read_bytes().rstrip(b"\0")
    path.write_bytes(data[:cut])
    with pytest.raises(StoreError, match=r"data-0001\.tar"):
        source_of(tars / "data-{0000..0001}.tar", IMAGE)


def test_tars_behind_urls_are_read_alike(tars: Path) -> None:
    local = source_of(tars / "data-{0000..0001}.tar", IMAGE, MASK)
    with FaultyServer(tars) as server:
        url = f"{server.url}/data-{{0000..0001}}.tar"
        source = source_of(url, IMAGE, MASK)
        assert source.description == local.description
        again = pickle.loads(pickle.dumps(source))
        for index in (9, 0, 4):
            again.prefetch(index)
            assert again.load(index).arrays["image"] == local.load(index).arrays["image"]
            assert again.content(index) == local.content(index)
    assert server.url not in json.dumps(source.description)


def test_tars_that_changed_are_seen(tars: Path) -> None:
    source = source_of(tars / "data-0000.tar", IMAGE)
    seen = source.signal(1), source.content(1)
    path = tars / "data-0000.tar"
    data = bytearray(path.read_bytes())
    at = data.index(coded(photo(1), "JPEG"))
    data[at + 200] ^= 1
    path.write_bytes(data)
    assert source.signal(1) != seen[0]
    assert source.content(1) != seen[1]
    assert source.content(3) == source_of(path, IMAGE).content(3)


def test_the_order_is_that_of_the_members(tmp_path: Path) -> None:
    numbers = [7, 2, 9, 4]
    write_tar(tmp_path / "d.tar", [each for n in numbers for each in shard([n])])
    source = source_of(tmp_path / "d.tar", IMAGE, MASK)
    assert [source.load(index).meta["number"] for index in range(4)] == numbers
    assert [source.key(index) for index in range(4)] == [f"{n:06d}" for n in numbers]


@pytest.mark.parametrize("ending", [".tar.gz", ".tgz"])
def test_all_compressed_tars_of_a_folder_are_unpacked_by_one_command(
    tmp_path: Path, tars: Path, ending: str
) -> None:
    folder = tmp_path / "some tars"
    folder.mkdir()
    for number in range(2):
        whole = (tars / "data-0000.tar").read_bytes()
        (folder / f"{number}{ending}").write_bytes(gzip.compress(whole))
    for source in (folder / f"{{0..1}}{ending}", folder / f"*{ending}"):
        with pytest.raises(StoreError) as refused:
            source_of(source, IMAGE)
        command = str(refused.value).rpartition("take what is there then: ")[2]
        subprocess.run(["bash", "-c", command], check=True)
        assert (folder / "0.tar").read_bytes() == whole
        assert (folder / "1.tar").read_bytes() == whole
        (folder / "1.tar").unlink()
    assert unpacking_of_folder(tars) is None
    assert unpacking_of_folder(tmp_path / "nothing" / "there") is None
    found = unpacking_of_folder(folder)
    assert found is not None
    subprocess.run(["bash", "-c", found.command], check=True)
    assert (folder / "1.tar").read_bytes() == whole
    assert found.plain == [f"{folder}/*.tar"]


@pytest.mark.parametrize("name", ["set [v2]", "a [*] ?", "[ab", "it's [!x]"])
def test_compressed_tars_of_a_folder_with_brackets_are_unpacked(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    plain = write_tar(folder / "plain", shard(range(4))).read_bytes()
    (folder / "plain").rename(folder / "0.tar.gz")
    (folder / "0.tar.gz").write_bytes(gzip.compress(plain))
    found = unpacking_of_folder(folder)
    assert found is not None
    subprocess.run(["bash", "-c", found.command], check=True)
    assert sorted(path.name for path in folder.iterdir()) == ["0.tar", "0.tar.gz"]
    assert len(source_of(found.plain[0], IMAGE)) == 4
    (folder / "0.tar").unlink()
    with pytest.raises(StoreError) as refused:
        source_of(f"{glob.escape(str(folder))}/*.tar.gz", IMAGE)
    command = str(refused.value).rpartition("take what is there then: ")[2]
    subprocess.run(["bash", "-c", command], check=True)
    assert (folder / "0.tar").read_bytes() == plain


def test_of_a_folder_with_braces_no_tars_can_be_named(tmp_path: Path) -> None:
    folder = tmp_path / "set{1,2}"
    folder.mkdir()
    (folder / "0.tar.gz").write_bytes(b"")
    assert unpacking_of_folder(folder) is None


@pytest.mark.parametrize(
    "url",
    ["https://host/b{0..1}.tar.gz?sig=s3cr3t", "https://bob:s3cr3t@host/b.tar", "s3://b/c.tar"],
)
def test_a_command_is_told_of_no_url_with_secrets_and_of_none_that_curl_does_not_fetch(
    url: str,
) -> None:
    found = unpacking([url], "gzip")
    assert found.command == ""
    assert "s3cr3t" not in found.plain[0]
    told = refusal(CompressedTar(redacted(url), "gzip"), [url])
    assert "curl" not in told
    assert "s3cr3t" not in told
    assert "(gzip -dc)" in told
    assert "curl -fL ftp://host/b.tar.gz |" in unpacking(["ftp://host/b.tar.gz"], "gzip").command


def test_a_look_into_a_compressed_tar_takes_whole_samples_and_reads_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    members = [
        each
        for number in range(40)
        for each in ((f"{number:02}.jpg", random.bytes(300_000)), (f"{number:02}.png", b"small"))
    ]
    film = [("00.mp4", bytes(3 << 20)), *members]
    monkeypatch.setattr(packed_tars, "_MOST_BYTES", 1_000_000)
    for name, inside, count in (("d", members, 3), ("film", film, 1)):
        plain = write_tar(tmp_path / f"{name}.tar", inside).read_bytes()
        packed = tmp_path / f"{name}.tar.gz"
        packed.write_bytes(gzip.compress(plain, 1))
        read: list[int] = []

        def counted(*given: Any, read: list[int] = read) -> Iterator[bytes]:
            for piece in unpacked(*given):
                read.append(len(piece))
                yield piece

        monkeypatch.setattr(packed_tars, "unpacked", counted)
        with packed_tars.first_samples(str(packed), "gzip") as sample, tarfile.open(sample) as tar:
            names = tar.getnames()
        assert names == [each for each, _ in members[: 2 * count]]
        assert sum(read) < (6 << 20) < len(plain)


def test_one_of_several_endings_is_a_fields(tmp_path: Path) -> None:
    ends = ["jpg", "jpeg", "JPG"]
    members = [(f"{n}.{end}", coded(photo(n), "JPEG")) for n, end in enumerate(ends)]
    write_tar(tmp_path / "d.tar", members)
    source = source_of(tmp_path / "d.tar", "image=image:jpg|jpeg")
    for number in range(3):
        assert source.load(number).arrays["image"] == coded(photo(number), "JPEG")


def test_a_sample_with_two_members_of_a_field_is_a_reject(tmp_path: Path) -> None:
    one, other = (coded(photo(number), "JPEG") for number in range(2))
    write_tar(tmp_path / "d.tar", [("a.jpg", one), ("a.jpeg", other), ("b.jpg", one)])
    source = source_of(tmp_path / "d.tar", "image=image:jpg|jpeg")
    with pytest.raises(FieldError, match=r"^more than one image: its tar has several a"):
        source.load(0)
    assert source.load(1).arrays["image"] == one
    write_tar(tmp_path / "e.tar", [("a.jpg", one), ("a.jpg", other), ("b.jpg", one)])
    with pytest.raises(FieldError, match=r"^more than one image"):
        source_of(tmp_path / "e.tar", IMAGE).load(0)


def test_a_large_member_that_nobody_declared_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, classes = coded(photo(0), "JPEG"), coded(figure(0), "PNG")
    members = [("a.jpg", picture), ("a.mp4", bytes(2 << 20)), ("a.txt", b"x"), ("a.png", classes)]
    write_tar(tmp_path / "d.tar", members)
    source = source_of(tmp_path / "d.tar", IMAGE, "mask=mask:png,foreground=1")
    read: list[int] = []
    whole = LocalFile.read

    def counted(file: LocalFile, offset: int, count: int) -> bytes:
        read.append(count)
        return whole(file, offset, count)

    monkeypatch.setattr(LocalFile, "read", counted)
    assert source.raw(0) == [picture, classes]
    assert sum(read) <= len(picture) + len(classes) + extents.GAP


def test_a_member_that_is_too_large_is_a_reject_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = coded(photo(0), "JPEG"), coded(photo(1), "JPEG") + bytes(50_000)
    write_tar(tmp_path / "d.tar", [("a.jpg", small), ("b.jpg", large)])
    monkeypatch.setattr(tar_source, "MAX_MEMBER", 40_000)
    source = source_of(tmp_path / "d.tar", IMAGE)
    assert source.load(0).arrays["image"] == small
    monkeypatch.setattr(LocalFile, "read", None)
    source.prefetch(1)
    with pytest.raises(FieldError, match=r"a member too large: b\.jpg holds .* at most 40,000"):
        source.load(1)


def test_names_with_a_number_behind_the_dot_fill_no_memory(tmp_path: Path) -> None:
    members = [(f"img.{number:06d}.jpg", b"x") for number in range(1500)]
    write_tar(tmp_path / "d.tar", members)
    with pytest.raises(StoreError, match=r"end in 000000\.jpg.* more than 1,000 different ones"):
        source_of(tmp_path / "d.tar", IMAGE)
    assert len(tar_source.member_families(str(tmp_path / "d.tar"), 8)) <= 64
    endings = Endings()
    for name, _ in members:
        endings.add(name)
    assert len(endings) == 1000
