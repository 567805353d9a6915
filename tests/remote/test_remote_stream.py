"""A whole epoch over a network that fails, from a real web server, equals that from the folder."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash

from tests.noise import NoiseSource
from tests.remote.servers import FAULTS, Asked, FaultyServer
from wdtrain.commands.inspect_shards import main
from wdtrain.disk.failures import StoreError
from wdtrain.packing.pack import pack
from wdtrain.remote.remote_files import RemoteAccess
from wdtrain.store.manifest import Manifest
from wdtrain.store.shards import ShardReader
from wdtrain.stream import open_stream

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).resolve().parents[2]
HASTE = {"pause_seconds": 0.005, "timeout_seconds": 0.5, "tries": 5}
FORMS = [("image", "zstd:3"), ("raw", "zstd:3"), ("image", "none")]
Content = list[tuple[list[str], bytes, bytes, bytes, list[int]]]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def make(folder: Path, encoding: str = "image", compression: str = "zstd:3", first: int = 0) -> str:
    class Later(NoiseSource):
        def load(self, index: int) -> Any:
            return super().load(index + first)

        def key(self, index: int) -> str:
            return super().key(index if index >= first else index + first)

    pack(
        Later(400),
        str(folder),
        encoding=encoding,
        compression=compression,
        processes=1,
        shard_samples=120,
        samples_per_block=8,
    )
    return str(folder)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    made: dict[tuple[str, str], Path] = {}

    def get(encoding: str = "image", compression: str = "zstd:3") -> Path:
        form = (encoding, compression)
        if form not in made:
            made[form] = tmp_path_factory.mktemp("web") / "data"
            make(made[form], encoding, compression)
        return made[form]

    return get


@pytest.fixture
def server(packed: Callable[[str, str], Path]) -> Iterator[FaultyServer]:
    with FaultyServer(packed("image", "zstd:3").parent) as server:
        yield server


def load(url: str, **access: Any) -> Manifest:
    return Manifest.load(url, access=RemoteAccess(**{**HASTE, **access}))


def epoch(manifest: Manifest | str, **options: Any) -> Content:
    arguments = {
        "split": "train",
        "batch_size": 32,
        "seed": 5,
        "lanes": 4,
        "chunk": 8,
        "threads": 2,
    }
    return [
        (
            list(batch.keys),
            batch["overlay"].contiguous().numpy().tobytes(),
            batch["mask"].numpy().tobytes(),
            batch["depth"].contiguous().view(torch.uint8).numpy().tobytes(),
            batch.positions.tolist(),
        )
        for batch in open_stream(manifest, **{**arguments, **options})
    ]


def by_chance(*faults: str, share: float = 0.5) -> Callable[[Asked], str | None]:
    """A keyed share of first and second tries fails in one of these ways."""

    def script(asked: Asked) -> str | None:
        key = f"{asked.path}{asked.byte_range}{asked.again}".encode()
        chance = xxhash.xxh64_intdigest(key)
        if asked.again >= 2 or chance % 1000 >= share * 1000:
            return None
        return faults[chance // 1000 % len(faults)]

    return script


# ---------------------------------------------------------------------------- the same batches


@pytest.mark.parametrize(("encoding", "compression"), FORMS)
def test_an_epoch_over_a_failing_network_is_that_from_the_folder(
    packed: Callable[[str, str], Path], encoding: str, compression: str
) -> None:
    folder = packed(encoding, compression)
    passing = [fault for fault in FAULTS if fault != "hang"]
    with FaultyServer(folder.parent, by_chance(*passing)) as server:
        assert epoch(load(f"{server.url}/data")) == epoch(str(folder))
        assert sum(asked.again > 0 for asked in server.asked) > 5


def test_servers_that_hang_or_know_no_ranges_give_the_same_epoch(server: FaultyServer) -> None:
    expected = epoch(str(server.folder / "data"))
    server.script = by_chance("hang", share=0.1)
    assert epoch(load(f"{server.url}/data")) == expected
    server.script = lambda asked: "whole"
    with pytest.warns(RuntimeWarning, match="answers with whole files"):
        assert epoch(load(f"{server.url}/data")) == expected


@pytest.mark.parametrize(("tries", "end"), [(2, ".zst"), (4, ".zst"), (4, "")])
def test_what_is_damaged_on_its_way_is_asked_for_as_often_as_what_fails(
    server: FaultyServer, tmp_path: Path, tries: int, end: str
) -> None:
    expected = epoch(str(server.folder / "data"))
    server.script = lambda asked: (
        "damaged" if asked.path.endswith(end) and asked.again < tries - 1 else None
    )
    kept = {"cache_folder": str(tmp_path)}
    assert epoch(load(f"{server.url}/data", tries=tries, **kept)) == expected
    server.script = lambda asked: None
    assert epoch(load(f"{server.url}/data", **kept)) == expected


def test_what_is_damaged_where_it_lies_is_asked_for_so_often_and_no_more(
    server: FaultyServer,
) -> None:
    manifest = load(f"{server.url}/data", tries=3)
    server.script = lambda asked: "damaged"
    shard = manifest.split("train").shards[0]
    with pytest.raises(StoreError, match="cannot be read"):
        ShardReader(manifest.shard_url(shard), shard, manifest)
    assert server.count(shard.name) == 3
    with pytest.raises(StoreError, match=r"manifest\.json of"):
        load(f"{server.url}/data", tries=3)
    assert manifest.content_of(shard)[1] != shard.sha256


def test_a_signed_url_reads_and_its_secret_is_not_shown(server: FaultyServer) -> None:
    server.script = lambda asked: None if asked.query == "sig=a%2Fb&x=1" else "403"
    manifest = load(f"{server.url}/data?sig=a%2Fb&x=1")
    manifest.check_shards("train")
    assert epoch(manifest) == epoch(str(server.folder / "data"))
    with pytest.raises(StoreError, match=r"credentials") as error:
        load(f"{server.url}/data/manifest.json?sig=SECRET&x=1")
    assert "sig=...&x=..." in str(error.value)
    assert "SECRET" not in str(error.value)


def test_a_url_without_a_dataset_and_one_without_a_shard_say_so(
    server: FaultyServer, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=r"holds no manifest\.json"):
        load(f"{server.url}/nothing")
    shutil.copytree(server.folder / "data", tmp_path / "data")
    manifest = load(f"{server.url}/data")
    shard = manifest.split("train").shards[0]
    server.folder = tmp_path
    (tmp_path / "data" / shard.name).unlink()
    with pytest.raises(StoreError, match=f"shard {shard.name} is missing"):
        manifest.check_shards("train")
    with pytest.raises(StoreError, match=f"shard {shard.name} is missing"):
        ShardReader(manifest.shard_url(shard), shard, manifest)
    (tmp_path / "data" / shard.name).write_bytes(bytes(100))
    with pytest.raises(StoreError, match="cut off or replaced"):
        manifest.check_shards("train")
    with pytest.raises(StoreError, match="cut off or replaced"):
        ShardReader(manifest.shard_url(shard), shard, manifest)


# ---------------------------------------------------------------------------- requests are counted


def test_blocks_cost_one_request_each_and_a_shard_one(server: FaultyServer) -> None:
    manifest = load(f"{server.url}/data")
    assert server.count("manifest.json") == 2
    shard = manifest.split("train").shards[0]
    with ShardReader(manifest.shard_url(shard), shard, manifest) as reader:
        for number in range(reader.num_blocks):
            reader.read_block(number)
        assert server.count(shard.name) == reader.num_blocks + 1
    assert all(asked.method == "GET" for asked in server.asked)


def test_a_second_epoch_comes_from_the_disk(server: FaultyServer, tmp_path: Path) -> None:
    kept = {"cache_folder": str(tmp_path)}
    manifest = load(f"{server.url}/data", **kept)
    first = epoch(manifest)
    before = len(server.asked)
    assert epoch(manifest) == first
    assert len(server.asked) == before
    # The next run asks for the manifest alone, since that may have changed.
    assert epoch(load(f"{server.url}/data", **kept)) == first
    assert {asked.path for asked in server.asked[before:]} == {"/data/manifest.json"}
    assert first == epoch(str(server.folder / "data"))


def test_a_budget_smaller_than_an_epoch_is_kept_and_gives_the_same(
    server: FaultyServer, tmp_path: Path
) -> None:
    manifest = load(f"{server.url}/data", cache_folder=str(tmp_path), cache_bytes=100_000)
    assert manifest.num_bytes > 200_000
    expected = epoch(str(server.folder / "data"))
    for _ in range(2):
        assert epoch(manifest) == expected
        assert 0 < lying(tmp_path) <= 100_000


def lying(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_replaced_dataset_is_never_mixed_with_what_was_kept_of_the_old(tmp_path: Path) -> None:
    old, new = tmp_path / "old" / "data", tmp_path / "new" / "data"
    make(old)
    make(new, first=1000)
    kept = {"cache_folder": str(tmp_path / "cache")}
    with FaultyServer(old.parent) as server:
        for folder in (old, new, old):
            server.folder = folder.parent
            assert epoch(load(f"{server.url}/data", **kept)) == epoch(str(folder))


def test_a_cache_folder_that_cannot_be_written_is_done_without(
    server: FaultyServer, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    manifest = load(f"{server.url}/data", cache_folder=str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="is read without it") as warned:
        assert epoch(manifest) == epoch(str(server.folder / "data"))
    assert len(warned) == 1


# ---------------------------------------------------------------------------- killed, and ended

READER = """
import sys
from wdtrain.store.manifest import Manifest
from wdtrain.remote.remote_files import RemoteAccess
from wdtrain.packing.verify import walk_blocks
access = RemoteAccess(cache_folder=sys.argv[2], cache_bytes=150_000, pause_seconds=0.01)
manifest = Manifest.load(sys.argv[1], access=access)
print("ready", flush=True)
while True:
    for block in walk_blocks(manifest, manifest.split("train")):
        pass
"""


def test_killed_at_any_moment_the_cache_is_right_and_within_its_budget(
    server: FaultyServer, tmp_path: Path
) -> None:
    server.script = by_chance("500", "truncated", share=0.2)
    moments = random.Random(11)
    command = [sys.executable, "-c", READER, f"{server.url}/data", str(tmp_path)]
    for _ in range(3):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(moments.uniform(0.0, 0.5))
            process.send_signal(signal.SIGKILL)
    begun = sum(path.stat().st_size for path in tmp_path.rglob("*.part"))
    assert lying(tmp_path) - begun <= 150_000
    manifest = load(f"{server.url}/data", cache_folder=str(tmp_path), cache_bytes=150_000)
    assert epoch(manifest) == epoch(str(server.folder / "data"))
    assert lying(tmp_path) <= 150_000


HANGING = """
import sys
from wdtrain.remote.remote_files import Remote, RemoteAccess
file = Remote(RemoteAccess(timeout_seconds=100)).open(sys.argv[1], num_bytes=10_000)
for offset in range(0, 10_000, 500):
    file.prefetch(offset, 500)
print("ready", flush=True)
"""


def test_a_process_ends_though_a_server_does_not_answer(server: FaultyServer) -> None:
    server.script = lambda asked: "hang"
    command = [sys.executable, "-c", HANGING, f"{server.url}/data/manifest.json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        started = time.perf_counter()
        assert process.wait(60) == 0
        assert time.perf_counter() - started < 15


# ---------------------------------------------------------------------------- from the command line


@pytest.mark.parametrize("action", ["show", "verify"])
def test_the_tool_inspects_a_dataset_behind_a_url(
    server: FaultyServer, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script = by_chance("503", "truncated", share=0.02)
    assert main([action, f"{server.url}/data"]) == 0
    assert "400" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "says"), [("403", "credentials"), ("404", "holds no manifest.json")]
)
def test_the_tool_says_in_one_line_why_a_url_cannot_be_read(
    server: FaultyServer, status: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server.script = lambda asked: status
    assert main(["show", f"{server.url}/data"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert says in message


def test_a_stream_that_is_left_ends_at_once_though_its_reads_hang(server: FaultyServer) -> None:
    manifest = Manifest.load(f"{server.url}/data", access=RemoteAccess(timeout_seconds=60))
    batches = iter(open_stream(manifest, split="train", batch_size=32, seed=1, lanes=4, chunk=8))
    assert len(next(batches)) == 32
    server.script = lambda asked: "hang"
    started = time.perf_counter()
    batches.close()  # type: ignore[attr-defined]
    assert time.perf_counter() - started < 20
