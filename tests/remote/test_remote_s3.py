"""The same over a real S3 interface: s3fs against moto's server on this machine."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import xxhash

from tests.noise import NoiseSource
from wdtrain.disk.failures import StoreError
from wdtrain.packing.pack import pack
from wdtrain.remote.access import open_file
from wdtrain.remote.remote_files import RemoteAccess
from wdtrain.store.manifest import Manifest
from wdtrain.stream import open_stream

moto_app = pytest.importorskip("moto.moto_server.werkzeug_app")
s3fs = pytest.importorskip("s3fs")

pytestmark = [
    pytest.mark.timeout(120),
    # These libraries' own, of other libraries and of connections that a test leaves behind.
    pytest.mark.filterwarnings("ignore:.*utcnow.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

HASTE = {"pause_seconds": 0.005, "timeout_seconds": 5.0, "tries": 4}
START = Callable[[str, list[tuple[str, str]]], Any]


class FaultyS3:
    """moto's S3 behind a layer that fails by script: `fault(path, range, again)`."""

    def __init__(self) -> None:
        from werkzeug.serving import make_server

        self._app = moto_app.DomainDispatcherApplication(moto_app.create_backend_app)
        self._server = make_server("127.0.0.1", 0, self, True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.clear()

    def clear(self) -> None:
        self.asked: Counter[tuple[str, str]] = Counter()
        self.fault: Callable[[str, str, int], str | None] = lambda path, byte_range, again: None

    def __call__(self, environ: dict[str, Any], start_response: START) -> Iterable[bytes]:
        key = (environ["PATH_INFO"], environ.get("HTTP_RANGE", environ["REQUEST_METHOD"]))
        with self._lock:
            again = self.asked[key]
            self.asked[key] += 1
        fault = self.fault(*key, again)
        if fault in ("500", "503", "403"):
            code = {"500": "InternalError", "503": "SlowDown", "403": "AccessDenied"}[fault]
            body = f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>".encode()
            if environ["REQUEST_METHOD"] == "HEAD":
                body = b""
            start_response(f"{fault} Fault", [("Content-Length", str(len(body)))])
            return [body]
        answer = b"".join(self._app(environ, start_response))
        return [answer[: len(answer) // 2]] if fault == "truncated" else [answer]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture(scope="module")
def running() -> Iterator[FaultyS3]:
    server = FaultyS3()
    yield server
    server.stop()


@pytest.fixture
def s3(running: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    running.clear()
    yield running
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("s3") / "data"
    pack(NoiseSource(200), str(folder), processes=1, shard_samples=70, samples_per_block=8)
    return folder


@pytest.fixture
def url(s3: FaultyS3, folder: Path) -> str:
    filesystem = fsspec.filesystem("s3")
    filesystem.makedirs("bucket", exist_ok=True)
    for path in folder.iterdir():
        if path.is_file():
            filesystem.pipe(f"bucket/some/data/{path.name}", path.read_bytes())
    s3.clear()
    return "s3://bucket/some/data"


def keys_and_pixels(manifest: Manifest) -> list[tuple[list[str], bytes]]:
    options: dict[str, Any] = {"batch_size": 32, "seed": 3, "lanes": 4, "chunk": 8, "threads": 2}
    return [
        (list(batch.keys), batch["overlay"].contiguous().numpy().tobytes())
        for batch in open_stream(manifest, split="train", **options)
    ]


def test_an_epoch_from_s3_is_that_from_the_folder(s3: FaultyS3, url: str, folder: Path) -> None:
    s3.fault = lambda path, byte_range, again: (
        ("500", "503", "truncated", None)[
            xxhash.xxh64_intdigest(f"{path}{byte_range}".encode()) % 4
        ]
        if again < 2
        else None
    )
    manifest = Manifest.load(url, access=RemoteAccess(**HASTE))  # type: ignore[arg-type]
    manifest.check_shards("train")
    assert keys_and_pixels(manifest) == keys_and_pixels(Manifest.load(str(folder)))
    assert any(count > 2 for count in s3.asked.values())


def test_ranges_cost_one_request_each(s3: FaultyS3, url: str, folder: Path) -> None:
    manifest = Manifest.load(url, access=RemoteAccess(**HASTE))  # type: ignore[arg-type]
    shard = manifest.split("train").shards[0]
    s3.clear()
    file = manifest.open_shard(shard)
    content = (folder / shard.name).read_bytes()
    for offset in range(0, 5000, 1000):
        file.prefetch(offset, 1000)
    for offset in range(0, 5000, 1000):
        assert file.read(offset, 1000) == content[offset : offset + 1000]
    assert file.read(len(content) - 7, 100) == content[-7:]
    assert sum(s3.asked.values()) == 6


def test_a_second_epoch_comes_from_the_disk(
    s3: FaultyS3, url: str, folder: Path, tmp_path: Path
) -> None:
    access = RemoteAccess(cache_folder=str(tmp_path), **HASTE)  # type: ignore[arg-type]
    first = keys_and_pixels(Manifest.load(url, access=access))
    manifest = Manifest.load(url, access=access)
    s3.clear()
    assert keys_and_pixels(manifest) == first
    assert not s3.asked


def test_what_is_not_there_and_what_may_not_be_read_are_told_apart(s3: FaultyS3, url: str) -> None:
    access = RemoteAccess(**HASTE)  # type: ignore[arg-type]
    for nowhere in ("s3://bucket/nothing", "s3://no-such-bucket/data"):
        with pytest.raises(StoreError, match=r"holds no manifest\.json"):
            Manifest.load(nowhere, access=access)
    s3.clear()
    s3.fault = lambda path, byte_range, again: "403"
    with pytest.raises(StoreError, match=r"credentials .*AWS_PROFILE"):
        Manifest.load(url, access=access)
    # botocore itself asks once more, in case the bucket lies in another region.
    assert sum(s3.asked.values()) <= 2


def test_a_store_that_always_fails_is_given_up_with_all_that_was_tried(
    s3: FaultyS3, url: str
) -> None:
    s3.fault = lambda path, byte_range, again: "503"
    with pytest.raises(OSError, match=r"4 tries failed.*check the network"):
        Manifest.load(url, access=RemoteAccess(**HASTE))  # type: ignore[arg-type]
    assert sum(s3.asked.values()) == 4


def test_missing_credentials_are_named(
    s3: FaultyS3, url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match=r"credentials .*AWS_ACCESS_KEY_ID"):
        open_file(f"{url}/manifest.json")
