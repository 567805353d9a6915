"""A manifest declares its fields; what no packer writes of them is refused before it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.store.datasets import MANY, write_dataset
from tests.store.test_manifest import check_refused, rewrite
from wdtrain import fields
from wdtrain.disk.failures import StoreError
from wdtrain.fields import Field, ImageField, MaskField, resize
from wdtrain.store.limits import MOST_FIELDS
from wdtrain.store.manifest import Manifest

PLAIN: tuple[Field, ...] = (ImageField("photo"), *MANY[2:4])
LEFT = {"pixels": 1, "sum": [1, 1, 1], "square_sum": [1, 1, 1]}
WRONG: dict[str, list[Any]] = {
    "fields": [{}, {"photo": {"kind": "image"}}, [], ["photo"], [None], "photo"],
    "fields.0": [{}, [], None, {"name": "photo"}, {"kind": "image"}],
    "fields.0.name": [None, 5, "", "json", "a/b", "../x", "a.b", "a b", "x" * 65, "far", "ä"],
    "fields.0.kind": [None, 5, [], "", "a b", "\x1b[31m", "mask:x", "k" * 65],
    "fields.0.lossless": ["yes", 1, None, []],
    "fields.0.over": [5, "red", "#12345", ["#123456"]],
    "fields.0.optional": [1, "no", None],
    "fields.0.member": ["photo.png", "photo", 5, None, ["photo.jpg"]],
    "fields.0.dtype": ["uint16", "|u1", 8],
    "fields.0.shape": [[24, 32], [24, 32, 4], "x", [24.0, 32.0, 3.0]],
    "fields.0.quality": [90],
    "fields.1.format": [None, 5, [], {}, {"kind": "metric"}, {"near_m": 1}],
    "fields.1.format.bits": [12, "16", None, 16.5],
    "fields.1.format.near_m": ["x", 0, -1.0, None, True, float("inf")],
    "fields.1.unit": ["feet", 5, []],
    "fields.1.scale": ["x", 0, [], float("nan")],
    "fields.2.classes": [0, -1, 1.5, "5", 2**40, True, None],
    "fields.2.bits": [7, "8", None, 32],
    "fields.2.ignore": [-5, 2**16, "255", None],
    "fields.2.names": ["abc", [1] * 300, [[]], {"a": 1}],
    "fields.2.map": [5, [[1]], [[1, 2, "x"]], {"a": 1}],
    "statistics": [None, [], {}, {"photo": LEFT, "far": LEFT}, {"foto": LEFT}],
    "statistics.photo": [{}, None, []],
    "statistics.photo.pixels": [0, -1, 1.0, None],
    "statistics.photo.sum": [[1, 2], [-1, 0, 0], [1.0, 2.0, 3.0], "abc", [0, 0, 0]],
    "statistics.photo.square_sum": [[0, 0, 0], [2**70] * 3],
    "samples_per_block": [2**21 + 1, 0],
}  # fmt: skip


@pytest.mark.parametrize("field", WRONG)
def test_what_no_packer_writes_of_fields_is_named(field: str, tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", PLAIN)
    check_refused(tmp_path / "set", field, WRONG[field])


def test_fields_come_back_as_they_were_declared_and_in_their_order(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "set", MANY)
    assert list(manifest.fields.items()) == [(field.name, field) for field in MANY]
    assert manifest.member_suffixes == (
        "parts.png", "left.jpg", "far.png", "things.png", "right.png", "labels.png", "near.png",
        "rear.jpg", "sky.png", "json",
    )  # fmt: skip
    assert list(manifest.sums) == ["left", "right", "rear"]


def test_what_is_told_of_members_for_others_may_stand_there(tmp_path: Path) -> None:
    manifest = write_dataset(tmp_path / "set", PLAIN)
    path = tmp_path / "set" / "manifest.json"
    told = json.loads(path.read_text())["fields"]
    told[0] |= {"member": "photo.jpg", "dtype": "uint8", "shape": [24, 32, 3]}
    told[1] |= {"member": "far.png", "dtype": "uint16", "shape": [24, 32]}
    rewrite(tmp_path / "set", fields=told)
    assert Manifest.load(manifest.url).fields == manifest.fields


def test_more_fields_than_a_reader_takes_are_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", [MaskField(f"m{number}") for number in range(MOST_FIELDS)])
    assert len(Manifest.load(str(tmp_path / "set")).fields) == MOST_FIELDS
    path = tmp_path / "set" / "manifest.json"
    told = json.loads(path.read_text())["fields"]
    rewrite(tmp_path / "set", fields=[*told, {"name": "one", "kind": "mask"}])
    with pytest.raises(StoreError, match=f"fields is a list; .*at most {MOST_FIELDS}"):
        Manifest.load(str(tmp_path / "set"))


class Normals(MaskField):
    """A kind that nobody knows."""

    kind = "normals"

    def resize(self, array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return resize.area(array, size)


def test_a_kind_that_is_not_known_is_refused_with_the_ways_to_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fields.KINDS, "normals", Normals)
    manifest = write_dataset(tmp_path / "set", [*PLAIN, Normals("bumps")])
    assert manifest.fields["bumps"] == Normals("bumps")
    monkeypatch.delitem(fields.KINDS, "normals")
    with pytest.raises(StoreError, match=r"field 'bumps'.*'normals' is not known") as caught:
        Manifest.load(manifest.url)
    assert "--kind normals=PACKAGE.MODULE:CLASS" in str(caught.value)
    assert "data.kinds: {normals: PACKAGE.MODULE:CLASS}" in str(caught.value)
    assert "packer writes" not in str(caught.value)


def test_nothing_is_imported_because_a_manifest_says_so(tmp_path: Path) -> None:
    write_dataset(tmp_path / "set", PLAIN)
    path = tmp_path / "set" / "manifest.json"
    told = json.loads(path.read_text())["fields"]
    told[0]["kind"] = "tests.store.test_manifest_fields:Normals"
    rewrite(tmp_path / "set", fields=told)
    with pytest.raises(StoreError, match=r"kind is 'tests.store.test_manifest_fields:Normals'; it"):
        Manifest.load(str(tmp_path / "set"))
