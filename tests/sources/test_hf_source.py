"""Folders that the Hugging Face library saved: columns become fields, splits are kept."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.sources.people import classes, coded, figure, metres, photo, trimap
from wdtrain.disk.failures import StoreError
from wdtrain.fields import FieldError
from wdtrain.sources import hf_source
from wdtrain.sources.asking import ask
from wdtrain.sources.field_options import parse_field
from wdtrain.sources.hf_source import HuggingFaceSource

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore")  # other people's code warns as it likes
FIELDS = (
    "image=image:photo",
    "labels=classes:annotation,classes=8",
    "depth=depth:metres,unit=m",
)


def rows(numbers: range) -> dict[str, list[Any]]:
    return {
        "photo": [Image.fromarray(photo(number)) for number in numbers],
        "annotation": [Image.fromarray(classes(number)) for number in numbers],
        "metres": [metres(number).tolist() for number in numbers],
        "title": [f"room {number}" for number in numbers],
        "score": [0.5 for _ in numbers],
    }


def table(numbers: range) -> Any:
    features = datasets.Features(
        photo=datasets.Image(),
        annotation=datasets.Image(),
        metres=datasets.Array2D((24, 32), "float32"),
        title=datasets.Value("string"),
        score=datasets.Value("float32"),
    )
    return datasets.Dataset.from_dict(rows(numbers), features=features)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    splits = {"train": table(range(6)), "validation": table(range(6, 8))}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def source_of(folder: Path, *fields: str) -> HuggingFaceSource:
    return HuggingFaceSource(folder, [parse_field(line) for line in fields])


def test_columns_become_fields_and_the_rest_stays_with_the_sample(saved: Path) -> None:
    source = pickle.loads(pickle.dumps(source_of(saved, *FIELDS)))
    assert len(source) == 8
    sample = source.load(6)
    assert sample.key == "validation__000000000"
    assert sample.meta == {"title": "room 6", "name": "validation/000000000"}
    np.testing.assert_array_equal(sample.arrays["image"], photo(6))
    np.testing.assert_array_equal(sample.arrays["labels"], classes(6))
    got = source.fields[2].decode(np.asarray(sample.arrays["depth"]))
    np.testing.assert_allclose(got, metres(6), rtol=1e-3)
    assert str(saved) not in json.dumps(source.description)


def test_its_splits_are_kept(saved: Path, tmp_path: Path) -> None:
    division = source_of(saved, *FIELDS).division
    assert division is not None
    assert division.codes.tolist() == [0] * 6 + [5] * 2
    table(range(3)).save_to_disk(str(tmp_path / "one"))
    source = source_of(tmp_path / "one", FIELDS[0])
    assert source.division is None
    assert source.key(2) == "row__000000002"


def test_other_rows_are_another_source(saved: Path, tmp_path: Path) -> None:
    datasets.DatasetDict({"train": table(range(5))}).save_to_disk(str(tmp_path / "other"))
    one, other = source_of(saved, FIELDS[0]), source_of(tmp_path / "other", FIELDS[0])
    assert one.description != other.description
    assert one.description == source_of(saved, FIELDS[0]).description


def test_masks_in_a_column_of_bytes_are_asked_about(tmp_path: Path) -> None:
    cells = {
        "photo": [coded(photo(number), "JPEG") for number in range(6)],
        "mask": [coded(trimap(number), "PNG") for number in range(6)],
    }
    datasets.Dataset.from_dict(cells).save_to_disk(str(tmp_path / "saved"))
    source = source_of(tmp_path / "saved", "image=image:photo", "mask=mask:mask")
    assert set(np.unique(source.load(0).arrays["mask"])) == {0, 128, 255}
    with pytest.raises(FieldError, match=r"--field 'mask=mask:mask,unknown=128'"):
        ask(source)
    ask(source_of(tmp_path / "saved", "image=image:photo", "mask=mask:mask,unknown=128"))


def test_rows_of_several_lengths_are_a_reject_and_end_nothing(tmp_path: Path) -> None:
    masks = [(figure(number) * np.uint8(255)).tolist() for number in range(6)]
    masks[3] = [[0, 255], [1]]
    cells = {"photo": [coded(photo(number), "JPEG") for number in range(6)], "mask": masks}
    datasets.Dataset.from_dict(cells).save_to_disk(str(tmp_path / "saved"))
    source = source_of(tmp_path / "saved", "image=image:photo", "mask=mask:mask")
    ask(source)
    assert set(source.load(2).arrays) == {"image", "mask"}
    with pytest.raises(FieldError, match=r"^mask 'mask of row/000000003' holds rows that are not"):
        source.load(3)


def test_an_empty_cell_is_a_reject(tmp_path: Path) -> None:
    cells = {**rows(range(2)), "annotation": [None, Image.fromarray(classes(1))]}
    features = table(range(1)).features
    datasets.Dataset.from_dict(cells, features=features).save_to_disk(str(tmp_path / "saved"))
    source = source_of(tmp_path / "saved", *FIELDS)
    with pytest.raises(FieldError, match="missing labels: annotation is empty"):
        source.load(0)
    assert set(source.load(1).arrays) == {"image", "labels", "depth"}
    kept = source_of(tmp_path / "saved", FIELDS[0], FIELDS[1] + ",optional")
    assert set(kept.load(0).arrays) == {"image"}


def test_what_is_not_there_is_refused_with_what_is(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no column 'picture' .* it has photo, annotation"):
        source_of(saved, "image=image:picture")
    with pytest.raises(StoreError, match=r"save it with dataset\.save_to_disk"):
        source_of(tmp_path, "image=image:photo")


def test_a_picture_that_is_a_pipe_is_a_reject_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")  # the library itself would wait for it, so none can be saved
    with pytest.raises(FieldError, match="names a file that cannot be read"):
        hf_source._picture({"bytes": None, "path": str(tmp_path / "pipe.jpg")}, "photo of row/0")


def test_a_column_that_a_later_split_lacks_is_refused_by_the_splits_name(tmp_path: Path) -> None:
    splits = {"train": table(range(3)), "test": table(range(2)).remove_columns("annotation")}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(StoreError, match=r"split test, has no column 'annotation' \(labels\)"):
        source_of(tmp_path / "saved", *FIELDS)
    kept = source_of(tmp_path / "saved", FIELDS[0], FIELDS[1] + ",optional")
    assert set(kept.load(0).arrays) == {"image", "labels"}
    assert set(kept.load(3).arrays) == {"image"}
    with pytest.raises(StoreError, match="has no column 'nowhere'"):
        source_of(
            tmp_path / "saved", FIELDS[0], FIELDS[1].replace("annotation", "nowhere") + ",optional"
        )
