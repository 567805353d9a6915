"""The audit proves what it can know, finds what looks alike, and says what it does not know."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.disks import Disks, write_triple
from wdtrain.commands import inspect_shards
from wdtrain.fields import Sample
from wdtrain.fields.jpeg import decode_jpeg, encode_jpeg
from wdtrain.packing.audit import Audit, audit
from wdtrain.packing.likeness import Prints, find_alike
from wdtrain.packing.pack import pack
from wdtrain.sources.folder import FolderSource
from wdtrain.store.manifest import Manifest

Change = Callable[[np.ndarray], np.ndarray]


def scene(number: int, side: int = 64) -> np.ndarray:
    """A soft picture of its own for each number."""
    few = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    picture: np.ndarray = cv2.resize(few, (side, side), interpolation=cv2.INTER_CUBIC)
    return picture


@dataclass(frozen=True)
class Scenes(Disks):
    """Of `count` scenes; the last `copies` show the first ones again, changed a little."""

    copies: int = 0
    named: bool = False
    flat: int = 0

    def load(self, index: int) -> Sample:
        sample = super().load(index)
        shown = index - (self.count - self.copies)
        picture = scene(shown if shown >= 0 else index, 64)
        if shown >= 0:
            picture = np.clip(picture.astype(int) + 3, 0, 255).astype(np.uint8)
        if index < self.flat:
            picture = np.full_like(picture, 90 + index)
        meta: dict[str, Any] = {"background": f"bg-{index}", "cutout": f"c-{index}"}
        mask = cv2.resize(sample.arrays["mask"], (64, 64), interpolation=cv2.INTER_NEAREST)
        depth = cv2.resize(sample.arrays["depth"], (64, 64), interpolation=cv2.INTER_NEAREST)
        arrays = {"overlay": picture, "mask": mask, "depth": depth}
        return Sample(sample.key, arrays, meta if self.named else {})

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (indices, indices) if self.named else super().parts(indices)


@dataclass(frozen=True)
class Twice(Scenes):
    """Each scene under two names."""

    def load(self, index: int) -> Sample:
        return with_overlay(super().load(index), scene(index % 40))


def with_overlay(sample: Sample, picture: np.ndarray) -> Sample:
    return replace(sample, arrays={**sample.arrays, "overlay": picture})


def audited(source: Disks, target: Path, **how: Any) -> Audit:
    manifest = pack(source, target, processes=1, **how)
    return audit(manifest, lambda done, total: None)


def test_names_of_all_parts_prove_it(tmp_path: Path) -> None:
    found = audited(Scenes(count=80, named=True), tmp_path / "set")
    assert (found.verdict, found.problems, found.doubts, found.unknown) == ("proven", [], [], [])


def test_where_nothing_is_named_finding_nothing_proves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = audited(Scenes(count=80, knows_parts=False), tmp_path / "set")
    assert (found.verdict, found.problems) == ("not known", [])
    assert [line[:48] for line in found.unknown] == [
        "80 of 80 samples do not name their background, s",
        "80 of 80 samples do not name their cutout, so no",
    ]
    assert inspect_shards.main(["audit", str(tmp_path / "set")]) == 0
    said = capsys.readouterr().out
    assert "not known: nothing was found, but 80 of 80 samples do not name their background" in said
    assert "no leak" not in said


@pytest.mark.parametrize("encoding", ["image", "raw"])
def test_pictures_that_look_like_trained_ones_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], encoding: str
) -> None:
    source = Scenes(count=80, knows_parts=False, copies=40)
    found = audited(source, tmp_path / "set", encoding=encoding)
    manifest = Manifest.load(str(tmp_path / "set"))
    assert found.verdict == "found leaks"
    (problem,) = found.problems
    assert problem.endswith(", ...)")
    assert "pictures of val look like pictures of train (" in problem
    pairs = [pair.split(" ~ ") for pair in problem.split("(")[1].split(", ")[:5]]
    for one, two in pairs:
        assert abs(int(one[5:]) - int(two[5:])) == 40
    assert int(problem.split()[0]) >= manifest.split("val").samples - 2
    assert inspect_shards.main(["audit", str(tmp_path / "set")]) == 1
    assert "found leaks:" in capsys.readouterr().out


def test_the_same_picture_on_both_sides_is_a_leak_whatever_it_is_called(
    tmp_path: Path,
) -> None:
    found = audited(Twice(count=80, named=True), tmp_path / "set")
    assert found.verdict == "found leaks"
    assert all(" are pictures of train (" in problem for problem in found.problems)


def test_alike_under_other_names_is_no_proof_but_for_a_person_to_judge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = audited(Scenes(count=80, named=True, copies=40), tmp_path / "set")
    assert (found.verdict, found.problems) == ("not known", [])
    assert found.doubts
    assert all("though their backgrounds have other names: look" in doubt for doubt in found.doubts)
    assert inspect_shards.main(["audit", str(tmp_path / "set")]) == 0
    said = capsys.readouterr().out
    assert "\nnot known: " in said
    assert all(doubt in said.splitlines() for doubt in found.doubts)
    assert not any(word in said for word in ("proven", "no leak", "nothing was found"))


@dataclass(frozen=True)
class Rooms(Scenes):
    """Many pictures of 20 backgrounds, each of which looks like one other."""

    def load(self, index: int) -> Sample:
        noise = np.random.default_rng(index).integers(-2, 3, (64, 64, 3))
        picture = np.clip(scene(index % 10).astype(int) + noise, 0, 255).astype(np.uint8)
        meta = {"background": f"bg-{index % 20}", "cutout": f"c-{index % 9}"}
        return replace(with_overlay(super().load(index), picture), meta=meta)

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return indices % 20, indices % 9


def test_what_a_seen_background_looks_like_is_no_matter(tmp_path: Path) -> None:
    found = audited(Rooms(count=400, named=True), tmp_path / "set")
    seen = [name for name in found.splits if name.startswith("val-seen")]
    assert seen
    assert found.problems == []
    assert found.doubts
    assert all("pictures of val-new" in doubt for doubt in found.doubts)


def test_flat_pictures_are_counted_and_not_taken_for_each_other(tmp_path: Path) -> None:
    found = audited(Scenes(count=80, knows_parts=False, flat=60), tmp_path / "set")
    assert found.problems == []
    assert any("too flat to be known by their looks" in note for note in found.notes)


def test_a_split_of_ones_own_that_shares_parts_proves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.sources.test_division import divided

    source = divided(tmp_path / "in", train=30, val=10)
    found = audited(FolderSource(source), tmp_path / "set")
    assert "the split is the source's own, so nothing was held out by packing" in found.notes
    assert "train and val share 10 backgrounds" in found.doubts
    assert found.verdict == "not known"
    assert inspect_shards.main(["audit", str(tmp_path / "set")]) == 0
    said = capsys.readouterr().out
    assert "\ntrain and val share 10 backgrounds\n" in said
    assert not any(word in said for word in ("proven", "no leak", "nothing was found"))


def test_a_split_of_ones_own_that_shares_nothing_is_proven(tmp_path: Path) -> None:
    for index in range(60):
        side = tmp_path / "in" / ("train" if index < 40 else "val")
        side.mkdir(parents=True, exist_ok=True)
        write_triple(side, Scenes(count=60, named=True).load(index))
    found = audited(FolderSource(tmp_path / "in"), tmp_path / "set")
    assert (found.verdict, found.doubts) == ("proven", [])


def recoded(picture: np.ndarray) -> np.ndarray:
    return decode_jpeg(encode_jpeg(picture, quality=40))


CHANGES: dict[str, Change] = {
    "encoded again": recoded,
    "smaller and larger": lambda p: cv2.resize(cv2.resize(p, (40, 40)), (64, 64)),
    "at twice the size": lambda p: cv2.resize(p, (128, 128), interpolation=cv2.INTER_CUBIC),
    "brighter": lambda p: np.clip(p.astype(int) + 8, 0, 255).astype(np.uint8),
    "moved by a pixel": lambda p: np.roll(p, 1, 1),
    "something pasted on it": lambda p: cv2.circle(p.copy(), (30, 40), 5, (255, 0, 0), -1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_pictures_are_known_again_and_others_are_not(change: Change) -> None:
    count = 200
    prints = Prints()
    prints.add([scene(number) for number in range(count)])
    prints.add([change(scene(number)) for number in range(0, count, 2)])
    prints.add([scene(number) for number in range(1000, 1000 + count)])
    trained = np.arange(count)
    held = np.arange(count, count + count // 2 + count)
    none = np.zeros(count + len(held), np.uint64)
    pairs = find_alike(prints.table(), held, trained, none).similar
    known = [pair for pair in pairs.tolist() if pair[0] < count + count // 2]
    assert pairs.tolist() == known, "a picture is taken for another"
    assert all(2 * (held - count) == trained for held, trained in known)
    assert len(known) >= 0.9 * count / 2


def test_what_is_kept_of_pictures_is_bounded_and_a_large_search_is_a_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prints = Prints()
    prints.add([scene(number) for number in range(60)])
    table = prints.table()
    assert sum(column.nbytes for column in vars(table).values()) <= 104 * 60
    monkeypatch.setattr("wdtrain.packing.likeness.MOST_PAIRS", 300)
    found = find_alike(table, np.arange(30), np.arange(30, 60), np.zeros(60, np.uint64))
    assert found.looked_for == 10
    assert json.dumps(found.similar.tolist()) == "[]"
