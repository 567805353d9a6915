"""Whole groups lie on one side of a split, and what is stored proves it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.disks import Disks
from wdtrain.commands import inspect_shards
from wdtrain.fields import Sample
from wdtrain.fields.source import SPLITS
from wdtrain.packing import splits
from wdtrain.packing.audit import Audit, audit
from wdtrain.packing.pack import pack
from wdtrain.packing.splits import Deal, Holdout, Splitter, make_splitter
from wdtrain.packing.verify import walk_blocks
from wdtrain.store.manifest import Manifest


@dataclass(frozen=True)
class Scenes(Disks):
    """Disks of scenes: of the sample's number, how many there are in each."""

    sizes: tuple[int, ...] = (7, 3, 5, 9, 4, 6, 2, 8, 5, 11)
    is_named: bool = True
    lonely: int = 0

    def groups(self, indices: np.ndarray) -> np.ndarray:
        ends = np.cumsum(self.sizes)
        found = np.searchsorted(ends, indices % ends[-1], side="right") * 1_000_003
        return np.where(indices < self.lonely, -1, found)

    def load(self, index: int) -> Sample:
        sample = super().load(index)
        group = int(self.groups(np.array([index]))[0])
        name = {"group": f"scene-{group}"} if self.is_named and group >= 0 else {}
        return replace(sample, meta={"x": "i" * (index % 9), **name})


SOURCES = st.builds(
    Scenes,
    count=st.integers(1, 400),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=60).map(tuple),
    lonely=st.integers(0, 30),
    knows_parts=st.booleans(),
)


def split_codes(source: Scenes, share: float, seed: int) -> np.ndarray:
    """int8 [n] of each sample in the source's order."""
    deal = Deal(source, make_splitter(source, Holdout(samples=share), seed), seed)
    codes = np.full(len(source), -1, np.int8)
    for code, name in enumerate(SPLITS):
        if deal.samples(name):
            rows = deal.rows(source, name, 0, deal.samples(name))
            assert (codes[rows] == -1).all()
            codes[rows] = code
    return codes


@given(source=SOURCES, share=st.floats(0, 0.9), seed=st.integers(0, 99))
def test_no_group_is_on_both_sides(source: Scenes, share: float, seed: int) -> None:
    codes = split_codes(source, share, seed)
    groups = source.groups(np.arange(len(source)))
    for group in np.unique(groups[groups >= 0]):
        assert len(set(codes[groups == group].tolist())) == 1
    assert set(codes[groups >= 0].tolist()) <= {SPLITS.index("train"), SPLITS.index("val")}


@given(source=SOURCES, share=st.floats(0.01, 0.6), seed=st.integers(0, 99))
def test_the_share_is_met_as_closely_as_a_group_is_large(
    source: Scenes, share: float, seed: int
) -> None:
    groups = source.groups(np.arange(len(source)))
    counts = np.bincount(np.unique(groups[groups >= 0], return_inverse=True)[1])
    if len(counts) < 2:
        return
    codes = split_codes(source, share, seed)[groups >= 0]
    held = int((codes == SPLITS.index("val")).sum())
    assert 0 < held < len(codes)
    trained = set(groups[groups >= 0][codes == SPLITS.index("train")].tolist())
    assert abs(held - share * len(codes)) <= max(counts.max() / 2, counts.min()) or (
        len(trained) == 1
    )


def test_many_small_groups_meet_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Scenes(count=4000, sizes=(1, 2, 3, 2) * 500)
    for most in (65536, 100):  # more groups than are counted are held out by their own share
        monkeypatch.setattr(splits, "_EXACT", most)
        held = (split_codes(source, 0.1, 3) == SPLITS.index("val")).mean()
        assert held == pytest.approx(0.1, abs=0.0003 if most > 100 else 0.03)


def test_another_seed_holds_out_other_groups() -> None:
    source = Scenes(count=600)
    assert not np.array_equal(split_codes(source, 0.2, 0), split_codes(source, 0.2, 1))


def audited(source: Scenes, target: Path, **how: Any) -> Audit:
    return audit(pack(source, target, processes=1, **how), lambda done, total: None)


@pytest.mark.parametrize("is_named", [True, False])
def test_groups_are_stored_and_prove_the_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_named: bool
) -> None:
    source = Scenes(count=60, is_named=is_named, knows_parts=False)
    found = audited(source, tmp_path / "set")
    assert found.problems == []
    assert found.unknown == []
    assert sum(len(split.groups) for split in found.splits.values()) == len(source.sizes)
    manifest = Manifest.load(str(tmp_path / "set"))
    assert set(manifest.splits) == {"train", "val"}
    for split in manifest.splits.values():
        for _, _, block in walk_blocks(manifest, split):
            for row, key in enumerate(block.keys):
                index = int(key.removeprefix("disk-"))
                group = int(source.groups(np.array([index]))[0])
                assert block.meta(row)["group"] == (f"scene-{group}" if is_named else group)
    assert inspect_shards.main(["audit", str(tmp_path / "set")]) == 0
    assert "groups" in capsys.readouterr().out


def test_a_group_on_both_sides_is_a_leak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = Splitter.codes

    def leaky(self: Splitter, indices: np.ndarray, *parts: np.ndarray | None) -> np.ndarray:
        return np.where(indices % 17 == 0, 0, codes(self, indices, *parts)).astype(np.int8)

    monkeypatch.setattr(Splitter, "codes", leaky)
    found = audited(Scenes(count=600), tmp_path / "set")
    assert found.verdict == "found leaks"
    (problem,) = (text for text in found.problems if "groups" in text)
    assert problem.startswith("val and train share")


def test_samples_without_a_group_are_told_of(tmp_path: Path) -> None:
    found = audited(Scenes(count=60, lonely=20, knows_parts=False), tmp_path / "set")
    assert any(
        text.startswith("20 of 60 samples do not name their background") for text in found.unknown
    )


def test_a_share_that_no_choice_of_groups_meets_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    pack(Scenes(count=60, sizes=(40, 20)), tmp_path / "set", processes=1, say=said.append)
    assert any(
        "33% of the samples are held out of training, 10% were asked" in text for text in said
    )
