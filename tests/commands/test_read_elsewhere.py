"""What `inspect-shards show` prints is run as it is printed, and reads every sample."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.remote.servers import FaultyServer
from wdtrain.commands import inspect_shards
from wdtrain.commands.read_elsewhere import programs
from wdtrain.packing.verify import walk_blocks
from wdtrain.store.manifest import Manifest

Packed = Callable[..., Manifest]
TITLES = ["webdataset", "tarfile", "Hugging Face datasets"]
FORMS = [("image", "zstd:3"), ("raw", "zstd:-1"), ("image", "none"), ("raw", "none")]
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # other people's code warns as it likes
    pytest.mark.skipif(not shutil.which("zstd"), reason="the zstd command is not here"),
]


@pytest.fixture(autouse=True)
def _cache_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def printed(url: str, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The programs that `show` prints, by title."""
    assert inspect_shards.main(["show", url]) == 0
    parts = re.split(r"(?m)^read with (.*), and no code of ours:$", capsys.readouterr().out)
    return {
        title: textwrap.dedent(code) for title, code in zip(parts[1::2], parts[2::2], strict=True)
    }


def keys_in(manifest: Manifest) -> list[str]:
    blocks = walk_blocks(manifest, manifest.split("train"))
    return [key for _, _, block in blocks for key in block.keys]


def keys_read(program: str) -> list[str]:
    """The keys of what a program prints, each once."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(program, "printed", "exec"), {})
    keys = [re.split(r"[ .]", line)[0] for line in output.getvalue().splitlines()]
    return list(dict.fromkeys(keys))


@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize(("encoding", "compression"), FORMS)
def test_a_printed_program_reads_every_sample_in_order(
    packed: Packed,
    capsys: pytest.CaptureFixture[str],
    title: str,
    encoding: str,
    compression: str,
) -> None:
    manifest = packed(encoding, compression)
    assert len(manifest.split("train").shards) > 1
    found = printed(manifest.url, capsys)
    assert list(found) == TITLES
    assert "wdtrain" not in found[title].replace(manifest.url, "")
    assert keys_read(found[title]) == keys_in(manifest)


@pytest.mark.parametrize(("encoding", "compression"), FORMS[::2])
def test_hugging_face_reads_them_without_streaming_too(
    packed: Packed, encoding: str, compression: str
) -> None:
    manifest = packed(encoding, compression)
    program = programs(manifest, "train")[TITLES[2]]
    assert "streaming=True" in program
    assert keys_read(program.replace("streaming=True", "streaming=False")) == keys_in(manifest)


@pytest.mark.parametrize("title", TITLES)
def test_they_are_read_behind_a_url(
    packed: Packed, capsys: pytest.CaptureFixture[str], title: str
) -> None:
    manifest = packed("image", "zstd:3")
    with FaultyServer(Path(manifest.url)) as server:
        found = printed(server.url, capsys)
        assert keys_read(found[title]) == keys_in(manifest)
