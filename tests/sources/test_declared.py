"""What triples.json says of depth and masks is what is packed; what speaks against it is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wdtrain.commands import pack_shards
from wdtrain.disk.failures import StoreError
from wdtrain.fields.errors import FieldError
from wdtrain.fields.jpeg import encode_jpeg
from wdtrain.fields.png import encode_png
from wdtrain.packing.pack import pack
from wdtrain.packing.splits import Holdout
from wdtrain.packing.verify import walk_blocks
from wdtrain.sources.folder import FolderSource
from wdtrain.store.samples import decode_row

METRES = np.linspace(0.8, 4.0, 32)[:, None].repeat(32, 1)
MASK = np.zeros((32, 32), np.uint8)
MASK[8:24, 8:24] = 255


def folder_of(
    where: Path, declared: dict[str, Any] | None, *, depth: np.ndarray, mask: np.ndarray = MASK
) -> Path:
    where.mkdir(parents=True)
    for number in range(4):
        picture = np.full((32, 32, 3), 40 * number, np.uint8)
        (where / f"s{number}.overlay.jpg").write_bytes(encode_jpeg(picture))
        (where / f"s{number}.mask.png").write_bytes(encode_png(mask))
        (where / f"s{number}.depth.png").write_bytes(encode_png(depth))
    if declared is not None:
        (where / "triples.json").write_text(json.dumps(declared))
    return where


def metres_of(where: Path, **options: Any) -> np.ndarray:
    """What a reader of the packed folder gets, in metres."""
    manifest = pack(
        FolderSource(where), where / "out", processes=1, holdout=Holdout(samples=0.0), **options
    )
    _, _, block = next(walk_blocks(manifest, manifest.split("train")))
    return manifest.fields["depth"].decode(decode_row(block, 0)["depth"])


def linear(per_metre: float, dtype: type = np.uint16) -> np.ndarray:
    values = np.rint(METRES * per_metre).astype(dtype)
    values[:, 0] = 0
    return values


@pytest.mark.parametrize(
    ("words", "depth"),
    [
        ({"unit": "mm"}, linear(1000)),
        ({"unit": "cm"}, linear(100)),
        ({"scale": 50, "bits": 8}, linear(50, np.uint8)),
        ({"unit": "m"}, linear(1)),
        ({"scale": 5000}, linear(5000)),
        ({"scale": 256, "far_m": 80.0}, linear(256)),
        ({"scale": 1000.0, "kind": "geometric"}, linear(1000)),
    ],
)
@pytest.mark.parametrize("encoding", ["image", "raw"])
def test_linear_depth_comes_out_in_metres(
    tmp_path: Path, encoding: str, words: dict[str, Any], depth: np.ndarray
) -> None:
    per_metre = {"mm": 1000, "cm": 100, "m": 1}.get(words.get("unit", ""), words.get("scale"))
    where = folder_of(tmp_path / "in", {"depth": {"kind": "metric", **words}}, depth=depth)
    metres = metres_of(where, encoding=encoding)
    assert np.isnan(metres[:, 0]).all()
    np.testing.assert_allclose(metres[:, 1:], depth[:, 1:] / per_metre, rtol=1e-4)


def test_codes_stay_what_they_are(tmp_path: Path) -> None:
    depth = linear(1000)
    words = {"kind": "metric", "near_m": 0.5, "far_m": 20.0, "bits": 16, "unit": "code"}
    source = FolderSource(folder_of(tmp_path / "in", {"depth": words}, depth=depth))
    np.testing.assert_array_equal(source.load(0).arrays["depth"], depth)


def test_codes_that_look_like_millimetres_are_not_taken_in_silence(tmp_path: Path) -> None:
    words = {"kind": "metric", "near_m": 0.5, "far_m": 20.0, "bits": 16}
    where = folder_of(tmp_path / "in", {"depth": words}, depth=linear(1000))
    with pytest.raises(StoreError, match=r'800 to 4,000.*0\.523 to 0\.626 m.*"unit": "mm"'):
        metres_of(where)
    made = {"depth": words, "source": {"name": "x"}, "count": 4, "rejects": []}
    FolderSource(folder_of(tmp_path / "made", made, depth=linear(1000))).load(0)


def test_codes_that_may_be_linear_are_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"kind": "metric", "near_m": 0.5, "far_m": 20.0, "bits": 16}
    where = folder_of(tmp_path / "in", {"depth": words}, depth=linear(5000))
    options = ["--processes", "1", "--holdout-samples", "0"]
    assert pack_shards.main([str(where), str(tmp_path / "out"), *options]) == 0
    assert (
        "is taken for logarithmic codes of 0.5 to 20 m, 36,943 being 4 m" in capsys.readouterr().err
    )
    for name, unit in (("codes", {"unit": "code"}), ("scaled", {"scale": 5000})):
        where = folder_of(tmp_path / name, {"depth": {**words, **unit}}, depth=linear(5000))
        assert pack_shards.main([str(where), str(tmp_path / f"{name}-out"), *options]) == 0
        assert "note" not in capsys.readouterr().err


def test_depth_beyond_its_limits_is_rejected_with_what_was_found(tmp_path: Path) -> None:
    words = {"depth": {"kind": "metric", "scale": 256}}
    source = FolderSource(folder_of(tmp_path / "in", words, depth=linear(256 * 12)))
    with pytest.raises(FieldError, match=r"most of it is 9\.602 to 48 m.*keeps 0.5 to 20 m"):
        source.load(0)


def test_another_declaration_is_another_source(tmp_path: Path) -> None:
    descriptions = [
        FolderSource(folder_of(tmp_path / str(scale), declared, depth=linear(1000))).description
        for scale in (1000, 1001)
        if (declared := {"depth": {"kind": "metric", "scale": scale}})
    ]
    assert descriptions[0] != descriptions[1]


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"detph": {}}, "'detph' is no word of it; there are depth, mask"),
        (
            {"depth": {"kind": "metric", "units": "mm"}},
            "'units' is no word of its depth; there are kind",
        ),
        ({"depth": {"kind": "metres"}}, "metric, geometric, inverse or relative"),
        ({"depth": {"near_m": "half"}}, "depth.near_m is 'half'; a number is needed"),
        ({"depth": {"scale": True}}, "depth.scale is True; a number is needed"),
        ({"depth": {"scale": 0}}, "depth.scale is 0"),
        ({"depth": {"unit": "inch"}}, "depth.unit is 'inch'; it must be mm, cm, m, or code"),
        ({"depth": {"unit": "mm", "scale": 5}}, "a unit and a scale"),
        ({"depth": {"kind": "relative", "unit": "mm"}}, "declares relative depth in metres"),
        ({"depth": ["metric"]}, "an object is needed"),
        ({"mask": {"foregrund": [1]}}, "'foregrund' is no word of its mask"),
        ({"mask": {}}, "names no foreground"),
        ({"mask": {"foreground": 1}}, "a list of labels from 0 to 255"),
        ({"mask": {"foreground": [300]}}, "a list of labels from 0 to 255"),
        ({"mask": {"foreground": [1], "background": [1]}}, "label 1 is foreground and background"),
        ({"mask": {"foreground": [1], "unknown": [255]}}, "cannot leave pixels out"),
    ],
)
def test_what_cannot_be_declared_is_refused_in_words_of_the_format(
    tmp_path: Path, declared: dict[str, Any], said: str
) -> None:
    declared = {"depth": {"kind": "relative"}, **declared}
    where = folder_of(tmp_path / "in", declared, depth=linear(1000))
    with pytest.raises(StoreError, match=said) as raised:
        FolderSource(where)
    assert "unexpected keyword" not in str(raised.value)


# ---------------------------------------------------------------------------- masks of labels


def voc() -> np.ndarray:
    labels = np.zeros((32, 32), np.uint8)
    labels[8:24, 8:24] = 255
    labels[9:23, 9:23] = 1
    return labels


def alpha_of(where: Path, mask: np.ndarray, declared: dict[str, Any] | None = None) -> np.ndarray:
    document = {"depth": {"kind": "relative", "bits": 16}}
    document |= {} if declared is None else {"mask": declared}
    return (
        FolderSource(folder_of(where, document, depth=linear(1000), mask=mask))
        .load(0)
        .arrays["mask"]
    )


def test_labels_are_not_taken_for_alpha(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match="mask of labels: values 0, 1 and 255 were found"):
        alpha_of(tmp_path / "in", voc())


def test_labels_become_the_alpha_that_is_declared(tmp_path: Path) -> None:
    labels = voc()
    for name, declared, foreground in (
        ("in", {"foreground": [1], "background": [0, 255]}, labels == 1),
        ("both", {"foreground": [1, 255]}, labels > 0),
    ):
        alpha = alpha_of(tmp_path / name, labels, declared)
        np.testing.assert_array_equal(alpha, np.where(foreground, 255, 0))


def test_labels_that_are_not_declared_reject_the_sample(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match="mask of other labels: values 0, 1 and 255 were found"):
        alpha_of(tmp_path / "in", voc(), {"foreground": [1]})
    other = np.where(voc() == 1, 7, 0).astype(np.uint8)
    with pytest.raises(FieldError, match="values 0 and 7 were found"):
        alpha_of(tmp_path / "other", other, {"foreground": [1], "background": [0]})


def test_alpha_stays_alpha(tmp_path: Path) -> None:
    y, x = np.mgrid[:32, :32]
    soft = np.clip(255 - 40 * (np.hypot(y - 15.5, x - 15.5) - 8), 0, 255).astype(np.uint8)
    hard = np.where(soft > 128, 255, 0).astype(np.uint8)
    thin = hard.copy()
    thin[3, 4:20] = 25  # a box whose edge covers a tenth of its pixels
    for number, mask in enumerate((soft, hard, thin, np.zeros_like(hard), np.full_like(hard, 255))):
        np.testing.assert_array_equal(alpha_of(tmp_path / str(number), mask), mask)
