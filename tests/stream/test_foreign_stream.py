"""Somebody else's tars, read by their index: the laws are those of our own shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.foreign import FIELDS, Members, index_of, jpeg, make_tars, members_of, npy, read_plainly
from tests.laws import check_each_once
from tests.remote.servers import FaultyServer
from wdtrain.disk.failures import DamagedBlock, StoreError
from wdtrain.fields import DepthField, FieldError, ImageField
from wdtrain.packing import foreign_scan, indexing
from wdtrain.packing.foreign_scan import ForeignField
from wdtrain.packing.verify import verify
from wdtrain.store import foreign
from wdtrain.store.manifest import Manifest
from wdtrain.stream import Cursor, Order, open_stream
from wdtrain.stream.reader import Damaged

ORDER: dict[str, Any] = {"split": "train", "seed": 5, "lanes": 6, "chunk": 4}
Row = tuple[str, bytes]


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return make_tars(tmp_path_factory.mktemp("tars"))


@pytest.fixture(scope="module")
def data(tars: list[str], tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return index_of(tars, tmp_path_factory.mktemp("index") / "index")


def rows_of(
    data: Manifest, *, world: int = 1, batch: int = 8, start: int = 0, **more: Any
) -> dict[int, Row]:
    """By position, the key and all pixels of what all ranks read, from `start` on."""
    options = {**ORDER, "epochs": 2, "threads": 2, **more}
    order_of = {name: options[name] for name in (*ORDER, "shuffle_bytes") if name in options}
    cursor = Cursor.at(Order(data, **order_of), start) if start else None
    found: dict[int, Row] = {}
    for rank in range(world):
        stream = open_stream(
            data, batch_size=batch, rank=rank, world=world, cursor=cursor, **options
        )
        for one in stream:
            for row, (position, key) in enumerate(
                zip(one.positions.tolist(), one.keys, strict=True)
            ):
                assert position not in found, "a position came twice"
                parts = (one[name][row].numpy().tobytes() for name in one.fields)
                found[position] = (key, b"".join(parts))
        if more.get("epochs", 2) == 2:
            assert stream.start == 140
    return found


def test_pixels_are_those_of_a_plain_reading(data: Manifest, tars: list[str]) -> None:
    expected = read_plainly(tars)
    keys = []
    for batch in open_stream(data, batch_size=8, threads=2, **ORDER):
        for row, key in enumerate(batch.keys):
            keys.append(key)
            np.testing.assert_array_equal(
                batch["image"][row].permute(1, 2, 0).numpy(), expected[key]["image"]
            )
            for name in ("mask", "depth"):
                np.testing.assert_array_equal(batch[name][row, 0].numpy(), expected[key][name])
    check_each_once(keys, expected)


@pytest.mark.parametrize("shuffle_bytes", [1, 60_000, 2**30])
def test_the_order_is_the_same_twice_and_for_any_number_of_processes(
    data: Manifest, shuffle_bytes: int
) -> None:
    once = rows_of(data, shuffle_bytes=shuffle_bytes)
    assert sorted(once) == list(range(140))
    for epoch in range(2):
        check_each_once(
            [once[position][0] for position in range(70 * epoch, 70 * epoch + 70)],
            {row[0] for row in once.values()},
        )
    assert [once[p][0] for p in range(70)] != [once[p][0] for p in range(70, 140)]
    assert rows_of(data, world=3, batch=12, threads=1, shuffle_bytes=shuffle_bytes) == once


@pytest.mark.parametrize("start", [8, 40, 64, 96])
def test_resumed_in_mid_epoch_by_another_number_of_processes(data: Manifest, start: int) -> None:
    whole = rows_of(data, world=2)
    rest = rows_of(data, world=3, batch=4, start=start)
    assert rest == {position: row for position, row in whole.items() if position >= start}


def test_only_the_fields_that_are_asked_for_are_read(data: Manifest) -> None:
    batch = next(iter(open_stream(data, batch_size=8, fields=["depth"], **ORDER)))
    assert list(batch.fields) == ["depth"]
    assert batch["depth"].shape == (8, 1, 24, 32)


def test_a_split_is_read_as_a_dataset_of_its_own(tars: list[str], tmp_path: Path) -> None:
    data = index_of(tars, tmp_path / "index", holdout=0.3)
    keys = {
        split: [key for batch in open_stream(data, batch_size=8, **{**ORDER, "split": split})
                for key in batch.keys]
        for split in ("train", "val")
    }  # fmt: skip
    check_each_once(keys["train"] + keys["val"], read_plainly(tars))
    assert len(keys["val"]) == 21


# ------------------------------------------------------------------ sizes


def mixed(number: int) -> Members:
    return members_of(number, (24 + number % 3 * 8, 32 + number % 2 * 16))


def test_mixed_sizes_need_a_size_and_are_brought_to_it(tmp_path: Path) -> None:
    urls = make_tars(tmp_path, 40, members=mixed)
    data = index_of(urls, tmp_path / "index")
    for size in (None, 16):
        with pytest.raises(StoreError, match=r"24 x 32 to 40 x 48 pixels, .*data\.size.*\[height"):
            open_stream(data, batch_size=8, size=size, **ORDER)
    expected = read_plainly(urls)
    fields = data.fields
    for batch in open_stream(data, batch_size=8, size=(16, 20), **ORDER):
        for row, key in enumerate(batch.keys):
            for name in ("mask", "depth"):
                wanted = fields[name].resize(expected[key][name], (16, 20))
                np.testing.assert_array_equal(batch[name][row, 0].numpy(), wanted)
            image = batch["image"][row].permute(1, 2, 0).numpy().astype(int)
            wanted = fields["image"].resize(expected[key]["image"], (16, 20))
            assert np.abs(image - wanted).mean() < 6  # decoded at a fraction
    assert verify(data, lambda done, total: None) == []


# ------------------------------------------------------------------ damage


def spoil(path: str, at: int) -> None:
    data = bytearray(Path(path).read_bytes())
    data[at] ^= 1
    Path(path).write_bytes(data)


def place_in(path: str, name: str) -> int:
    import tarfile

    with tarfile.open(path) as tar:
        return tar.getmember(name).offset_data


def test_a_damaged_member_is_named_and_all_else_kept(tmp_path: Path) -> None:
    urls = make_tars(tmp_path)
    data = index_of(urls, tmp_path / "index")
    before = rows_of(data)
    spoil(urls[1], place_in(urls[1], "scene3/00033.seg.png") + 40)
    with pytest.raises(Damaged, match=r"data-001.tar, block \d+, sample scene3__00033 .* XXH64"):
        rows_of(data)
    damaged: dict[str, str] = {}
    rest = rows_of(data, on_damage="skip", damaged=damaged)
    assert rest == {p: row for p, row in before.items() if row[0] != "scene3__00033"}
    assert len(damaged) == 1
    (problem,) = [line for line in verify(data, lambda done, total: None) if "XXH64" in line]
    assert "scene3__00033" in problem


def test_a_changed_index_is_damage_too(tmp_path: Path) -> None:
    data = index_of(make_tars(tmp_path), tmp_path / "index")
    assert data.index is not None
    path = tmp_path / "index" / data.index.name
    layout = data.index_file.layout
    for name in layout.names or ():
        spoilt = np.fromfile(path, np.uint8)
        spoilt[16 + 5 * layout.itemsize + layout.fields[name][1]] ^= 1  # type: ignore[index]
        fresh = index_of(make_tars(tmp_path), tmp_path / f"fresh-{name}")
        (tmp_path / f"fresh-{name}" / data.index.name).write_bytes(spoilt.tobytes())
        with pytest.raises(Damaged, match="XXH64"):
            rows_of(fresh, epochs=1)


@pytest.mark.parametrize(("name", "value"), [("starts", 1 << 62), ("sizes", (1 << 32) - 1)])
def test_places_beyond_the_tar_are_damage_before_memory_is_taken(
    tmp_path: Path, name: str, value: int
) -> None:
    data = index_of(make_tars(tmp_path), tmp_path / "index")
    assert data.index is not None
    path = tmp_path / "index" / data.index.name
    layout = data.index_file.layout
    records = np.fromfile(path, layout, offset=16)
    records[name][7] = value
    path.write_bytes(path.read_bytes()[:16] + records.tobytes())
    with pytest.raises(Damaged, match="places beyond its end"):
        rows_of(Manifest.load(data.url), epochs=1)


def test_a_tar_that_was_replaced_or_is_gone_is_refused(tmp_path: Path) -> None:
    urls = make_tars(tmp_path)
    data = index_of(urls, tmp_path / "index")
    with Path(urls[2]).open("ab") as file:
        file.write(bytes(512))
    for read in (lambda: rows_of(data), lambda: data.check_shards("train")):
        with pytest.raises(StoreError, match=r"data-002.tar holds [\d,]+ bytes, the manifest says"):
            read()
    Path(urls[2]).unlink()
    for read in (lambda: rows_of(data), lambda: data.check_shards("train")):
        with pytest.raises(StoreError, match=r"data-002.tar is missing"):
            read()


def test_a_byte_that_no_sample_holds_is_found_by_its_hash(tmp_path: Path) -> None:
    urls = make_tars(tmp_path)
    data = index_of(urls, tmp_path / "index")
    spoil(urls[0], place_in(urls[0], "scene1/00001.cls"))
    rows_of(data)
    with pytest.raises(StoreError, match=r"data-000.tar holds .* with SHA-256"):
        data.verify()
    assert len(verify(data, lambda done, total: None)) == 1


def test_a_picture_of_another_size_than_the_index_says_is_damage(tmp_path: Path) -> None:
    """Such as only a hostile index can name: no row is made room for it."""
    from wdtrain.store.foreign import _one_size

    data = index_of(make_tars(tmp_path, 10), tmp_path / "index")
    assert _one_size({"image": (24, 32)}, data) == (24, 32)
    with pytest.raises(ValueError, match="it is 25 x 32, the manifest says 24 x 32"):
        _one_size({"image": (25, 32)}, data)


def test_a_size_that_the_manifest_does_not_say_is_refused_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = index_of(make_tars(tmp_path, 10), tmp_path / "index")
    for kind in (ImageField, DepthField):
        monkeypatch.setattr(kind, "load", None)
    large = {"image": jpeg(1, (25, 32)), "depth": npy(np.ones((24, 33), np.float32))}
    for name, member in large.items():
        members = iter([(data.fields[name], memoryview(member))])
        with pytest.raises(FieldError, match="the manifest says 24 x 32"):
            list(foreign._decode(data, "a", members, None, None))


def test_a_block_of_more_bytes_than_are_read_at_once_is_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as an index makes that names places all over a large tar."""
    data = index_of(make_tars(tmp_path, 10), tmp_path / "index")
    first = data.split("train").shards[0]
    with foreign.open_shard(data.shard_url(first), first, data) as shard:
        assert shard.read_packed(0)
        monkeypatch.setattr(foreign, "MAX_BLOCK", 1000)
        with pytest.raises(DamagedBlock, match="bytes of it, and 1,000 is the most"):
            shard.read_packed(0)


def test_an_index_is_written_in_blocks_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tars = make_tars(tmp_path, 10)
    usual = index_of(tars, tmp_path / "usual")
    assert usual.index is not None
    most = usual.index.block_bytes // 2
    monkeypatch.setattr(indexing, "MAX_BLOCK", most)
    small = index_of(tars, tmp_path / "small")
    assert small.index is not None
    assert small.index.block_bytes <= most
    monkeypatch.setattr(foreign_scan, "MAX_BLOCK", 10)
    with pytest.raises(StoreError, match=r"too large: [0-9,]+ bytes, and 10 is the most"):
        index_of(tars, tmp_path / "none")


@pytest.mark.parametrize(
    ("unused_bytes", "block_samples"), [(1, 256), (60 << 10, 16), (1 << 20, 1024)]
)
def test_gaps_in_a_tar_take_no_memory_and_count_in_the_size_of_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_bytes: int, block_samples: int
) -> None:
    """Members that no field asks for: short ones are read along, long ones skipped."""
    monkeypatch.setattr(indexing, "_LEAST_SAMPLES", 1 << 12)

    def members(number: int) -> Members:
        return [("jpg", jpeg(number)), ("bin", bytes(unused_bytes))]

    data = index_of(make_tars(tmp_path, 40, 40, members=members), tmp_path / "index", FIELDS[:1])
    assert data.samples_per_block == block_samples
    (shard,) = data.split("train").shards
    with foreign.open_shard(data.shard_url(shard), shard, data) as reader:
        packed = reader.read_packed(0)
    block = foreign.parse_foreign(packed, data)
    assert not block.damaged
    found = [bytes(block.members(row)[0]) for row in range(block.num_samples)]
    assert found == [jpeg(number) for number in range(min(40, data.samples_per_block))]
    records = 8 + block.num_samples * data.index_file.layout.itemsize
    assert len(packed) == records + sum(map(len, found))


# ------------------------------------------------------------------ from afar


def test_tars_behind_urls_are_indexed_and_read_as_those_of_a_folder(
    data: Manifest, tars: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FaultyServer(Path(tars[0]).parent) as server:
        urls = [f"{server.url}/{Path(path).name}" for path in tars]
        far = index_of(urls, tmp_path / "index")
        assert [shard.name for shard in far.split("train").shards] == urls
        mine = {position: row[1] for position, row in rows_of(data).items()}
        theirs = rows_of(far)
        # The order follows from the manifest, which names the tars; the samples are the same.
        assert sorted(row[1] for row in theirs.values()) == sorted(mine.values())


def test_an_index_that_lies_beside_its_tars_is_read_through_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    home = tmp_path / "home"
    near = index_of(make_tars(home), home)
    with FaultyServer(home) as server:
        far = Manifest.load(server.url)
        assert rows_of(far) == rows_of(near)


def test_pictures_alone_can_be_read(tars: list[str], tmp_path: Path) -> None:
    data = index_of(tars, tmp_path / "index", [ForeignField(ImageField("photo"), ("jpg",))])
    batch = next(iter(open_stream(data, batch_size=8, **ORDER)))
    assert list(batch.fields) == ["photo"]
    assert FIELDS[0].field.name not in batch.fields
