"""`inspect-shards order`: it says what a stream really yields, and reads no more than it must."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.noise import NoiseSource
from wdtrain.commands import inspect_shards
from wdtrain.commands.inspect_shuffle import meetings
from wdtrain.packing.pack import pack
from wdtrain.record.checkpoint import Checkpoints
from wdtrain.store.manifest import Manifest
from wdtrain.stream import Cursor, Order, open_stream

ROOT = Path(__file__).resolve().parent.parent.parent
ORDER: dict[str, Any] = {"split": "train", "seed": 3, "lanes": 6, "chunk": 4}
BATCH = 24
FLAGS = ["--seed", "3", "--lanes", "6", "--chunk", "4", "--batch-size", "24"]
RECIPE = """
data: {url: "URL", seed: 3, lanes: 6, chunk: 4}
run: {folder: anywhere}
train: {batch_size: 24, steps: 9}
tasks: {mask: {network: seed-mask, loss: bce}}
"""
Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    target = tmp_path_factory.mktemp("packed") / "data"
    return pack(NoiseSource(120, 12), target, processes=1, shard_samples=40, samples_per_block=7)


@pytest.fixture
def ask(manifest: Manifest, capsys: pytest.CaptureFixture[str]) -> Ask:
    """The JSON lines that the command answers about the dataset with, its exit code being 0."""

    def get(*arguments: object, target: str = manifest.url) -> list[dict[str, Any]]:
        given = [target, *FLAGS, *map(str, arguments), "--json"]
        assert inspect_shards.main(["order", *given]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return get


@pytest.fixture
def run_folder(manifest: Manifest, tmp_path: Path) -> Path:
    """A run of nine steps over the dataset, stopped after the first one was saved."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(RECIPE.replace("URL", manifest.url))
    save_cursor(folder, Cursor.at(Order(manifest, **ORDER), BATCH))
    return folder


def save_cursor(folder: Path, cursor: Cursor) -> None:
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.begin(1)
    checkpoints.commit(1, {"cursor": cursor.dumps()})


@pytest.mark.parametrize("world", [1, 4])
def test_says_what_every_step_took_on_every_rank(manifest: Manifest, ask: Ask, world: int) -> None:
    for rank in range(world):
        stream = open_stream(
            manifest, **ORDER, batch_size=BATCH, epochs=2, rank=rank, world=world, threads=1
        )
        for step, batch in enumerate(stream, 1):
            if batch.cursor.position % BATCH == 0:  # the stream's last batch may be cut short
                found = ask("--step", step, "--world", world, "--rank", rank)
                assert [line["key"] for line in found] == batch.keys
                assert [line["position"] for line in found] == batch.positions.tolist()
                assert [line["epoch"] for line in found] == batch.epochs
                assert {line["rank"] for line in found} <= {rank}


def test_says_what_lies_at_any_position(manifest: Manifest, ask: Ask) -> None:
    order = Order(manifest, **ORDER)
    stream = open_stream(manifest, **ORDER, batch_size=BATCH, epochs=2, threads=1)
    keys = [key for batch in stream for key in batch.keys]
    shards = [shard.name for shard in manifest.splits["train"].shards]
    found = ask("--position", 5, "--count", len(keys) - 5)
    assert [line["key"] for line in found] == keys[5:]
    for line in found:
        place = (shards.index(line["shard"]), line["block"], line["row"])
        assert place == order.locate(line["position"])
    assert ask("--position", 17) == [found[12]]


def test_answers_for_a_run_from_its_folder_alone(
    ask: Ask, run_folder: Path, manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ask("--step", 5, "--world", 3, "--rank", 2)
    asked = ["order", "--run", str(run_folder), "--step", "5", "--world", "3", "--rank", "2"]
    assert inspect_shards.main([*asked, "--json"]) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == wanted
    assert inspect_shards.main([*asked, "--json", manifest.url]) == 0  # the dataset has moved


def test_refuses_to_answer_for_a_run_of_another_order(
    run_folder: Path, manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    order, other = Order(manifest, **ORDER), Order(manifest, **{**ORDER, "seed": 4})
    shutil.rmtree(run_folder / "checkpoints")
    save_cursor(run_folder, Cursor.at(other, BATCH))
    assert inspect_shards.main(["order", "--run", str(run_folder), "--step", "5"]) == 2
    error = capsys.readouterr().err
    assert f"saved for order {other.digest}" in error
    assert f"this one is {order.digest}" in error


def test_columns_stand_below_their_names(
    manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = manifest.splits["train"].samples
    asked = ["--position", str(samples - 2), "--count", "4", "--world", "4"]
    assert inspect_shards.main(["order", manifest.url, *FLAGS, *asked]) == 0
    title, names, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith(f"positions {samples - 2} to {samples + 1} of order ")
    assert names.split() == ["position", "epoch", "lane", "rank", "shard", "block", "row", "key"]
    assert [line.split()[1] for line in lines] == ["0", "0", "1", "1"]
    for column, name in enumerate(names.split()):
        is_text = name in ("shard", "key")
        places = {
            line.index(line.split()[column]) if is_text else ends_of(line)[column]
            for line in (names, *lines)
        }
        assert len(places) == 1, f"column {name} is not aligned"


def ends_of(line: str) -> list[int]:
    """Where each word of a line ends."""
    padded = f"{line} "
    return [at for at in range(1, len(padded)) if padded[at] == " " != padded[at - 1]]


def test_places_alone_read_nothing_but_the_manifest(
    manifest: Manifest, ask: Ask, tmp_path: Path
) -> None:
    whole = ask("--position", 0, "--count", 50)
    shutil.copy(Path(manifest.url) / "manifest.json", tmp_path)
    found = ask("--position", 0, "--count", 50, "--places", target=str(tmp_path))
    assert found == [{k: v for k, v in line.items() if k != "key"} for line in whole]


def test_keys_are_read_from_the_blocks_named_and_from_no_others(
    manifest: Manifest, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wdtrain.store.shards import ShardReader

    read: list[tuple[str, int]] = []
    read_block = ShardReader.read_block

    def watched(self: ShardReader, index: int) -> Any:
        read.append((self.shard.name, index))
        return read_block(self, index)

    monkeypatch.setattr(ShardReader, "read_block", watched)
    found = ask("--step", 2, "--world", 3, "--rank", 1)
    named = {(line["shard"], line["block"]) for line in found}
    assert sorted(read) == sorted(named)  # each once


def test_a_damaged_block_is_named_and_the_others_are_told(
    manifest: Manifest, ask: Ask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = manifest.splits["train"].samples
    whole = ask("--position", 0, "--count", count)
    copy = tmp_path / "copy"
    shutil.copytree(manifest.url, copy)
    path = copy / "train-000000.tar.zst"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    asked = [str(copy), *FLAGS, "--position", "0", "--count", str(count), "--json"]
    assert inspect_shards.main(["order", *asked]) == 1
    shown = capsys.readouterr()
    assert shown.err.count("shard train-000000.tar.zst, block 0 is damaged") == 1
    is_damaged = [(line["shard"], line["block"]) == (path.name, 0) for line in whole]
    expected = [
        line | ({"key": None} if bad else {}) for line, bad in zip(whole, is_damaged, strict=True)
    ]
    assert [json.loads(line) for line in shown.out.splitlines()] == expected


def test_says_how_often_neighbours_meet_beside_chance(
    manifest: Manifest, ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    group, batch = ask("--shuffle")
    samples = manifest.splits["train"].samples
    assert (group["size"], batch["size"]) == (4, BATCH)
    for one in (group, batch):
        assert one["chance"] == pytest.approx((one["size"] - 1) / (samples - 1))
        assert one["times"] == pytest.approx(one["found"] / one["chance"])
        assert 0.8 < one["times"] < 1.25  # shuffled as a whole
    by_lane, _ = ask("--shuffle", "--shuffle-bytes", "1kB")
    assert by_lane["found"] > 5 * group["found"]
    assert inspect_shards.main(["order", manifest.url, *FLAGS, "--shuffle"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "shuffles among the whole split" in lines[0]
    assert [line.split()[0] for line in lines[-2:]] == ["norm", "batch"]


def test_counts_meetings_as_a_plain_count_does(manifest: Manifest) -> None:
    order = Order(manifest, **ORDER, shuffle_bytes=30 * 4816)
    samples, epochs = order.samples, 3
    met = pairs = 0
    for epoch in range(epochs):
        places = [order.locate(epoch * samples + at)[:2] for at in range(samples)]
        for one, other in combinations(range(samples), 2):
            if places[one] == places[other]:
                pairs += 1
                met += one // 6 == other // 6
    (found,) = meetings(order, {"six": 6}, epochs * samples)
    assert found.found == pytest.approx(met / pairs)


def test_takes_the_options_of_a_recipe(manifest: Manifest, tmp_path: Path, ask: Ask) -> None:
    text = RECIPE.replace("URL", manifest.url).replace("chunk: 4", "chunk: 4, shuffle_bytes: 64kB")
    (tmp_path / "recipe.yaml").write_text(text)
    wanted = ask("--position", 0, "--count", 40, "--shuffle-bytes", "64kB")
    asked = ["order", "--config", str(tmp_path / "recipe.yaml"), "--position", "0", "--count", "40"]
    with redirect_stdout(io.StringIO()) as out:
        assert inspect_shards.main([*asked, "--json"]) == 0
    assert [json.loads(line) for line in out.getvalue().splitlines()] == wanted


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("DATA --shuffle --shuffle-bytes much", "'much' is no size"),
        ("DATA --shuffle --count 4", "--count goes with --position"),
        ("DATA --position 1 --config RUN --run RUN", "--config and --run"),
        ("DATA --step 0", "steps count from 1"),
        ("--run RUN --step 10", "--step 10 is beyond the run's end: its last step is 9"),
        ("DATA --step 1 --rank 2 --world 2", "rank 2 is not in a world of 2"),
        ("DATA --step 1 --rank 2", "--rank 2 needs --world"),
        ("DATA --step 1 --world 0", "at least 1 rank is needed"),
        ("DATA --step 1 --world 33", "33 ranks share 32 lanes"),
        ("DATA --step 1 --batch-size 40", "40 is not a multiple of the chunk of 32"),
        ("DATA --step 1 --count 4", "--count goes with --position"),
        ("DATA --step 1 --split test", "split 'test' is not in"),
        ("DATA --position -1", "positions count from 0"),
        ("DATA --position 1 --count 0", "at least 1 is needed"),
        ("--position 1", "name TARGET, or the run's folder"),
        ("--run RUN --position 1 --seed 4", "--seed stands in the recipe"),
        ("--run DATA --position 1", "is not a run: it holds no config.yaml"),
        ("--run MOVED --position 1", "counts from where it was started"),
        ("nothing --position 1", "holds no manifest.json"),
    ],
)
def test_bad_questions_are_one_clear_error(
    manifest: Manifest,
    run_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    words: str,
) -> None:
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "config.yaml").write_text(RECIPE.replace("URL", "shards/gone"))
    names = {"DATA": manifest.url, "RUN": str(run_folder), "MOVED": str(tmp_path / "moved")}
    given = [names.get(word, word) for word in arguments.split()]
    assert inspect_shards.main(["order", *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert words in error


def test_ends_quietly_when_its_reader_has_seen_enough(manifest: Manifest) -> None:
    tool = [sys.executable, str(ROOT / "tools" / "inspect-shards"), "order", manifest.url]
    asked = [*tool, "--position", "0", "--count", "100000", "--places"]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"positions 0 to 99999")
        process.stdout.close()
        assert process.wait() == 141, "as a shell says of a tool that nobody reads"
        assert process.stderr.read() == b""
