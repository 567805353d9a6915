"""`inspect-shards grid` and `augment`: one picture each, which replaces nothing of anybody."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from tests.commands.kit import SIDE
from tests.noise import NoiseSource
from wdtrain.commands.inspect_shards import main
from wdtrain.packing.pack import pack
from wdtrain.store.manifest import Manifest


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return pack(NoiseSource(40, SIDE), tmp_path_factory.mktemp("packed") / "data", processes=1)


@pytest.fixture(params=["grid", "augment"])
def asked(request: pytest.FixtureRequest, manifest: Manifest) -> list[str]:
    if request.param == "grid":
        return ["grid", manifest.url, "--count", "4"]
    return ["augment", manifest.url, "n000021", "--epoch", "0"]


def other(asked: list[str]) -> list[str]:
    """The same tool, asked for another picture."""
    return [*asked[:-1], "7"]


def test_a_picture_of_the_user_stays(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.png"
    mine.write_bytes(b"mine")
    for option in ([], ["--overwrite"]):
        assert main([*asked, "--out", str(mine), *option]) == 2
        error = capsys.readouterr().err
        assert f"{mine} exists and was not made by inspect-shards {asked[0]}" in error
        assert mine.read_bytes() == b"mine"


def test_its_own_picture_is_replaced_only_with_overwrite(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "new" / "seen.png")]
    path = tmp_path / "new" / "seen.png"
    assert main([*asked, *out]) == 0
    first = path.read_bytes()
    assert main([*other(asked), *out]) == 2
    assert "give --overwrite" in capsys.readouterr().err
    assert path.read_bytes() == first
    assert main([*other(asked), *out, "--overwrite"]) == 0
    assert path.read_bytes() != first
    assert cv2.imread(str(path)) is not None


def test_one_tool_does_not_replace_what_the_other_made(manifest: Manifest, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "seen.png"), "--overwrite"]
    assert main(["grid", manifest.url, "--count", "4", *out]) == 0
    assert main(["augment", manifest.url, "n000021", "--epoch", "0", *out]) == 2


def test_a_place_that_cannot_be_written_to_is_said_before_anything_is_read(
    asked: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        "wdtrain.store.shards.ShardReader.read_block", lambda *_: pytest.fail("was read")
    )
    (tmp_path / "file").write_text("mine")
    for out, words in (
        (tmp_path / "file" / "x.png", "is a file"),
        (tmp_path, "is a folder; name a file"),
        (tmp_path / "x.jpg", "does not end in .png"),
    ):
        assert main([*asked, "--out", str(out)]) == 2
        assert words in capsys.readouterr().err
