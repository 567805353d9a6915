"""A sample's JSON: what every parser reads goes into a shard, anything else is a reject."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.disks import Disks, write_folder
from wdtrain.disk.failures import StoreError
from wdtrain.fields.errors import FieldError
from wdtrain.fields.sample import decode_meta, encode_meta
from wdtrain.packing.pack import pack
from wdtrain.packing.verify import walk_blocks
from wdtrain.sources.folder import FolderSource


def refuse(word: str) -> None:
    raise ValueError(word)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.text(), ANYTHING, max_size=4))
def test_whatever_python_writes_is_read_and_written_as_json(meta: dict[str, Any]) -> None:
    text = encode_meta(decode_meta(json.dumps(meta).encode()))
    again = json.loads(text, parse_constant=refuse)

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, dict):
            return {name: plain(inner) for name, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, list) else value

    assert again == plain(meta)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the name 'c' stands twice in an object"),
        ("[" * 200_000, "it is nested too deeply"),
        ('{"a": ' * 200_000, "it is nested too deeply"),
        ("[1]", "json holds a list; an object is needed"),
        ('{"a": 1} x', "json is not readable"),
        ("\ufeff{}x", "json is not readable"),
    ],
)
def test_other_json_is_a_reject_with_its_reason(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(FieldError, match=reason):
        decode_meta(text.encode())
    folder = write_folder(tmp_path / "in", Disks(count=12))
    (folder / "disk-000003.json").write_text(text)
    manifest = pack(FolderSource(folder), tmp_path / "set", processes=1, max_rejects=0.1)
    (reject,) = manifest.rejects["list"]
    assert reject["key"] == "disk-000003"
    assert reason in reject["reason"]
    (folder / "triples.json").write_text(text)
    with pytest.raises(StoreError, match=r"triples\.json is not readable JSON"):
        FolderSource(folder)


@pytest.mark.parametrize("value", [math.nan, -math.inf, {1, 2}, [math.inf]])
def test_what_a_source_gives_and_json_has_no_word_for_is_refused(value: Any) -> None:
    with pytest.raises(FieldError, match="json cannot be written"):
        encode_meta({"score": value})


def test_numbers_that_are_none_are_null_in_the_shard(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "in", Disks(count=12))
    for path in folder.glob("disk*.json"):
        path.write_text('{"score": NaN, "limit": -Infinity, "large": 1e999, "n": 1.5}')
    manifest = pack(FolderSource(folder), tmp_path / "set", processes=1, encoding="raw")
    for _, _, block in walk_blocks(manifest, manifest.split("train")):
        for row in range(block.num_samples):
            text = bytes(block.members(row)[3])
            found = json.loads(text, parse_constant=refuse)
            assert found == {"score": None, "limit": None, "large": None, "n": 1.5}
