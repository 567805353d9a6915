"""The laws of packing over drawn sources and settings.

What was packed is judged with Python's own tarfile and the zstandard library, frame by frame, so
that a mistake which our writer and our reader share would show.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import xxhash
import zstandard
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from tests.disks import Disks
from wdtrain.disk.failures import StoreError
from wdtrain.fields.errors import FieldError
from wdtrain.fields.jpeg import decode_jpeg
from wdtrain.fields.resize import size_for
from wdtrain.packing.audit import audit
from wdtrain.packing.pack import pack
from wdtrain.packing.splits import Holdout
from wdtrain.packing.verify import verify
from wdtrain.store.manifest import Manifest

law = settings(max_examples=15, deadline=None, derandomize=True)
slow_law = settings(law, max_examples=3)

NOTHING = Holdout(backgrounds=0, cutouts=0, pairs=0, samples=0)
Sample = dict[str, bytes]
"""The members of a sample, by what follows its key in their names; the key itself under ""."""
ReadFolder = Callable[[Path], dict[str, bytes]]


@dataclass(frozen=True)
class Case:
    """A source and the settings it is packed with."""

    source: Disks
    settings: dict[str, Any]

    def pack(self, target: Path, **more: Any) -> Manifest:
        """Packed in one process, whatever is rejected; a case without training is drawn again."""
        options: dict[str, Any] = {"processes": 1, "max_rejects": 1.0}
        try:
            return pack(self.source, target, **options | self.settings | more)
        except StoreError as error:
            if "for training" in str(error):
                reject()
            raise


@st.composite
def sources(draw: st.DrawFn) -> Disks:
    count = draw(st.integers(12, 60))
    index = st.integers(0, count - 1)
    return Disks(
        count=count,
        backgrounds=draw(st.integers(1, 6)),
        cutouts=draw(st.integers(1, 5)),
        bits=draw(st.sampled_from([8, 16])),
        as_jpeg=draw(st.booleans()),
        broken=tuple(draw(st.sets(index, max_size=3))),
        twins=draw(st.dictionaries(index, index, max_size=3)),
        knows_parts=draw(st.booleans()),
    )


FITTED = [{"size": (20, 28), "fit": fit} for fit in ("stretch", "crop")]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    share = st.sampled_from([0.0, 0.1, 0.4])
    names = ("backgrounds", "cutouts", "pairs", "samples")
    chosen = {
        "encoding": draw(st.sampled_from(["image", "raw"])),
        "compression": draw(st.sampled_from(["zstd:1", "zstd:12", "zstd:-3", "none"])),
        **draw(st.sampled_from([{"size": None}, {"size": 16}, *FITTED])),
        "seed": draw(st.integers(0, 2**31)),
        "shard_samples": draw(st.integers(3, 40)),
        "samples_per_block": draw(st.integers(1, 12)),
        "holdout": Holdout(**{name: draw(share) for name in names}),
    }
    return Case(draw(sources()), chosen)


@contextmanager
def folder() -> Iterator[Path]:
    """An empty folder for one example."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def blocks_of(manifest: Manifest, split: str) -> Iterator[tuple[str, list[list[Sample]]]]:
    """By shard, the samples of each block: its frame inflated alone, or its slice of the tar."""
    for shard in manifest.splits[split].shards:
        data = Path(manifest.shard_url(shard)).read_bytes()
        if manifest.is_compressed:
            *parts, last = list(frames_of(data))
            assert last == bytes(1024), "the archive does not end with a frame of its own"
        else:
            parts = [data[at : at + size] for at, size, _ in shard.blocks]
            sums = [xxhash.xxh64_intdigest(part) for part in parts]
            assert sums == [block.xxh64 for block in shard.blocks]
            assert data[sum(map(len, parts)) :] == bytes(1024)
        yield shard.name, [samples_of(part) for part in parts]


def frames_of(data: bytes) -> Iterator[bytes]:
    """The zstd frames of a file, each inflated alone; the seek table is passed over."""
    while not data.startswith(b"\x5e\x2a\x4d\x18"):
        inflater = zstandard.ZstdDecompressor().decompressobj()
        yield inflater.decompress(data)
        data = inflater.unused_data


def samples_of(block: bytes) -> list[Sample]:
    """The samples of a run of tar members: adjacent, in one order of members."""
    found: list[Sample] = []
    with tarfile.open(fileobj=io.BytesIO(block + bytes(1024))) as tar:
        for member in tar:
            key, suffix = member.name.split(".", 1)
            if not found or found[-1][""] != key.encode():
                found.append({"": key.encode()})
            file = tar.extractfile(member)
            assert file is not None
            assert suffix not in found[-1]
            found[-1][suffix] = file.read()
    return found


def all_samples(manifest: Manifest) -> Iterator[tuple[str, Sample]]:
    """(split, sample) of everything that was packed, in order."""
    for split in manifest.splits:
        for _, blocks in blocks_of(manifest, split):
            yield from ((split, sample) for block in blocks for sample in block)


def key_of(sample: Sample) -> str:
    return sample[""].decode()


# ---------------------------------------------------------------------------- nothing lost


@law
@given(case=cases())
def test_every_triple_is_packed_once_or_rejected_with_its_reason(case: Case) -> None:
    with folder() as target:
        manifest = case.pack(target / "set")
        keys = [key_of(sample) for _, sample in all_samples(manifest)]
    rejects = manifest.rejects["list"]
    assert len(set(keys)) == len(keys) == manifest.samples
    given_keys = Counter(case.source.key(index) for index in range(len(case.source)))
    assert Counter(keys) + Counter(entry["key"] for entry in rejects) == given_keys
    assert {entry["reason"].split(":")[0] for entry in rejects} <= {"broken", "duplicate key"}
    broken = sorted(entry["key"] for entry in rejects if entry["reason"].startswith("broken"))
    assert broken == sorted(case.source.key(index) for index in case.source.broken)
    assert manifest.rejects["count"] == len(rejects) == sum(manifest.rejects["reasons"].values())


@law
@given(source=sources(), allowed=st.integers(0, 6))
def test_packing_stops_exactly_when_more_are_rejected_than_allowed(
    source: Disks, allowed: int
) -> None:
    with folder() as target:
        how = {"shard_samples": 9, "samples_per_block": 4, "holdout": NOTHING}
        case = Case(source, how)
        rejected = case.pack(target / "all").rejects["count"]
        share = (allowed + 0.5) / source.count
        if rejected <= allowed:
            assert case.pack(target / "set", max_rejects=share).rejects["count"] == rejected
        else:
            with pytest.raises(StoreError, match="samples cannot be packed, more than"):
                case.pack(target / "set", max_rejects=share)
            assert not (target / "set").exists()


@law
@given(case=cases())
def test_what_is_read_back_is_what_was_put_in(case: Case) -> None:
    with folder() as target:
        manifest = case.pack(target / "set")
        found = {key_of(sample): sample for _, sample in all_samples(manifest)}
    source, is_raw = case.source, case.settings["encoding"] == "raw"
    height, width = size_for((source.height, source.width), case.settings["size"])
    first = {
        source.key(index): index for index in reversed(range(source.count)) if loads(source, index)
    }
    for key, sample in found.items():
        given = source.load(first[key])
        overlay, mask, depth = pictures_of(sample, is_raw=is_raw)
        assert json.loads(sample["json"]) == given.meta
        assert (overlay.shape, mask.shape) == ((height, width, 3), (height, width))
        assert (depth.dtype, depth.shape) == (source.depth_format.dtype, mask.shape)
        if case.settings["size"] is not None:
            continue
        assert np.array_equal(mask, given.arrays["mask"])
        assert np.array_equal(depth, given.arrays["depth"])
        if source.as_jpeg and not is_raw:
            assert sample["overlay.jpg"] == given.arrays["overlay"]
        elif is_raw:
            rgb = given.arrays["overlay"]
            assert np.array_equal(overlay, decode_jpeg(rgb) if source.as_jpeg else rgb)


def loads(source: Disks, index: int) -> bool:
    """Whether a sample of this index can be loaded."""
    with suppress(FieldError):
        return bool(source.load(index))
    return False


def pictures_of(sample: Sample, *, is_raw: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """overlay RGB, mask, depth, decoded by numpy and OpenCV alone."""
    if is_raw:
        overlay, mask, depth = (
            np.load(io.BytesIO(sample[f"{name}.npy"]), allow_pickle=False)
            for name in ("overlay", "mask", "depth")
        )
        return overlay, mask, depth
    overlay, mask, depth = (
        cv2.imdecode(np.frombuffer(sample[name], np.uint8), how)
        for name, how in (
            ("overlay.jpg", cv2.IMREAD_COLOR_RGB),
            ("mask.png", cv2.IMREAD_UNCHANGED),
            ("depth.png", cv2.IMREAD_UNCHANGED),
        )
    )
    return overlay, mask, depth


@law
@given(case=cases())
def test_channel_means_are_those_of_the_stored_training_overlays(case: Case) -> None:
    how = replace(case, settings=case.settings | {"encoding": "raw"})
    with folder() as target:
        manifest = how.pack(target / "set")
        found = [
            pictures_of(sample, is_raw=True)[0]
            for split, sample in all_samples(manifest)
            if split == "train"
        ]
    overlays = np.stack(found).astype(np.float64) / 255
    np.testing.assert_allclose(
        manifest.mean_and_std(manifest.image)[0], overlays.mean((0, 1, 2)), rtol=1e-12
    )
    np.testing.assert_allclose(
        manifest.mean_and_std(manifest.image)[1], overlays.std((0, 1, 2)), rtol=1e-9
    )


# ---------------------------------------------------------------------------- how it lies there


@law
@given(case=cases())
def test_blocks_are_whole_samples_and_all_but_a_shards_last_hold_as_many(case: Case) -> None:
    members = {"raw": ("overlay.npy", "mask.npy", "depth.npy", "json")}.get(
        case.settings["encoding"], ("overlay.jpg", "mask.png", "depth.png", "json")
    )
    with folder() as target:
        manifest = case.pack(target / "set")
        assert verify(manifest, lambda done, total: None) == []
        for split in manifest.splits:
            for shard, (name, blocks) in zip(
                manifest.splits[split].shards, blocks_of(manifest, split), strict=True
            ):
                assert name.startswith(f"{split}-")
                sizes = [len(block) for block in blocks]
                assert sum(sizes) == shard.samples <= case.settings["shard_samples"]
                assert set(sizes[:-1]) <= {manifest.samples_per_block}
                assert 0 < sizes[-1] <= manifest.samples_per_block
                for sample in (sample for block in blocks for sample in block):
                    assert tuple(sample) == ("", *members)


@law
@given(case=cases())
def test_training_holds_nothing_that_was_held_out(case: Case) -> None:
    with folder() as target:
        manifest = case.pack(target / "set")
        if case.source.knows_parts:
            assert audit(manifest, lambda done, total: None).problems == []
        parts: dict[str, set[tuple[str, str]]] = {}
        for split, sample in all_samples(manifest):
            meta = json.loads(sample["json"])
            parts.setdefault(split, set()).add((meta["background"], meta["cutout"]))
    if not case.source.knows_parts:
        assert parts.keys() <= {"train", "val"}
        return
    train = parts.pop("train")
    for split, pairs in parts.items():
        _, background, cutout = split.split("-")
        for place, word in enumerate((background, cutout)):
            shared = {pair[place] for pair in train} & {pair[place] for pair in pairs}
            assert word == "seen" or not shared
        assert not train & pairs


@law
@given(case=cases(), other=st.integers(0, 2**31))
def test_the_seed_deals_the_same_samples_in_another_order(case: Case, other: int) -> None:
    plain = replace(case, settings=case.settings | {"holdout": NOTHING})
    with folder() as target:
        orders = [
            [key_of(sample) for _, sample in all_samples(plain.pack(target / name, seed=seed))]
            for name, seed in (("one", case.settings["seed"]), ("two", other))
        ]
    assert sorted(orders[0]) == sorted(orders[1])
    assert (orders[0] == orders[1]) == (case.settings["seed"] == other)
    assert all(order != sorted(order) for order in orders)


# ---------------------------------------------------------------------------- the same bytes


@law
@given(case=cases())
def test_the_same_input_and_settings_give_the_same_bytes_anywhere(case: Case) -> None:
    with folder() as target:
        case.pack(target / "here")
        case.pack(target / "elsewhere" / "set")
        assert bytes_below(target / "here") == bytes_below(target / "elsewhere" / "set")


@slow_law
@given(case=cases())
def test_the_number_of_processes_changes_no_byte(case: Case) -> None:
    case = replace(case, settings=case.settings | {"shard_samples": 5})  # several for each process
    with folder() as target:
        case.pack(target / "one")
        case.pack(target / "two", processes=2)
        assert bytes_below(target / "one") == bytes_below(target / "two")


anywhere = st.integers(0, 10**6)


@law
@given(case=cases(), stops=st.lists(st.tuples(anywhere, anywhere), min_size=2, max_size=4))
def test_killed_at_any_write_it_leaves_nothing_half_written_and_goes_on_to_the_same_bytes(
    case: Case, stops: list[tuple[int, int]]
) -> None:
    case = replace(case, source=replace(case.source, twins={}))
    with folder() as place:
        with killed_after(sys.maxsize) as count:
            case.pack(place / "whole")
        whole = bytes_below(place / "whole")
        for number, twice in enumerate(stops):
            target = place / f"stopped-{number}"
            for stop in twice:
                with killed_after(stop % count[0]), suppress(Killed):
                    case.pack(target)
                check_nothing_half_written(target, whole)
            case.pack(target)
            assert bytes_below(target) == whole


def check_nothing_half_written(target: Path, whole: dict[str, bytes]) -> None:
    """What stands under a final name is whole, and a dataset with a manifest has all its shards."""
    found = bytes_below(target)
    for name, data in found.items():
        assert name.startswith(".packing/") or data == whole[name]
    assert "manifest.json" not in found or found.keys() >= whole.keys()


class Killed(BaseException):
    """Stands for a kill: no handler of ours catches it, and no clean-up gets through after it."""


@contextmanager
def killed_after(writes: int) -> Iterator[list[int]]:
    """So many syncs, renames and removals get through; the next one and all others do not. Gives a
    list whose one number counts them."""
    count = [0]

    def guarded(act: Any) -> Any:
        def guard(*arguments: Any, **named: Any) -> Any:
            if count[0] == writes:
                raise Killed
            count[0] += 1
            return act(*arguments, **named)

        return guard

    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "replace", "rename", "unlink", "remove", "rmdir"):
            patch.setattr(os, name, guarded(getattr(os, name)))
        yield count


def bytes_below(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
