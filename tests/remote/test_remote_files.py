"""The laws of reading ranges over a network that fails, against a real web server."""

from __future__ import annotations

import hashlib
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from tests.remote.servers import FAULTS, FaultyServer, first_try
from wdtrain.config import RecipeError, load_recipe
from wdtrain.disk.failures import StoreError
from wdtrain.remote import access as module
from wdtrain.remote.access import file_bytes, open_file, read_bytes, sha256_of
from wdtrain.remote.remote_files import Remote, RemoteAccess
from wdtrain.remote.retries import Patience
from wdtrain.stream.opening import access_of

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).resolve().parents[2]
CONTENT = np.random.default_rng(5).bytes(200_000)
HASTE = {"pause_seconds": 0.005, "timeout_seconds": 0.4, "tries": 4}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FaultyServer]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "file").write_bytes(CONTENT)
    (folder / "empty").write_bytes(b"")
    with FaultyServer(folder) as server:
        yield server


def remote(**access: object) -> Remote:
    return Remote(RemoteAccess(**{**HASTE, **access}))  # type: ignore[arg-type]


def test_a_range_is_read_by_one_request(server: FaultyServer) -> None:
    file = remote().open(f"{server.url}/file", num_bytes=len(CONTENT))
    assert file.read(1000, 500) == CONTENT[1000:1500]
    assert file.read(len(CONTENT) - 10, 500) == CONTENT[-10:]
    assert file.read(len(CONTENT), 5) == b""
    assert [asked.byte_range for asked in server.asked] == [
        (1000, 1500),
        (len(CONTENT) - 10, len(CONTENT)),
    ]


@pytest.mark.parametrize("fault", FAULTS)
def test_what_fails_once_is_read_by_the_next_try(server: FaultyServer, fault: str) -> None:
    file = remote().open(f"{server.url}/file", num_bytes=len(CONTENT))
    server.script = first_try(fault)
    for offset in (0, 777, 150_000):
        assert file.read(offset, 9000) == CONTENT[offset:][:9000]
    assert len(server.asked) == (3 if fault == "slow" else 6)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "slow"])
def test_what_never_works_is_an_error_that_says_what_was_tried(
    server: FaultyServer, fault: str
) -> None:
    file = remote(tries=3, timeout_seconds=0.15).open(f"{server.url}/file", num_bytes=len(CONTENT))
    server.script = lambda asked: fault
    with pytest.raises(OSError, match="3 tries failed") as error:
        file.read(100, 50)
    message = str(error.value)
    assert f"{server.url}/file, bytes 100 to 149" in message
    assert "check the network and the server" in message
    # A connection that is reset is opened once more by aiohttp itself, within the same try.
    assert len(server.asked) == (6 if fault == "reset" else 3)


def test_a_server_that_does_not_answer_is_given_up_in_time(server: FaultyServer) -> None:
    file = remote(tries=2, timeout_seconds=0.3).open(f"{server.url}/file", num_bytes=len(CONTENT))
    server.script = lambda asked: "hang"
    started = time.perf_counter()
    with pytest.raises(OSError, match=r"no answer came within 0\.3 s"):
        file.read(0, 50)
    assert time.perf_counter() - started < 5


def test_a_server_that_is_gone_is_an_error_that_says_so(server: FaultyServer) -> None:
    url = server.url.replace(server.url.rpartition(":")[2], "9")
    with pytest.raises(OSError, match=r"the size of .*tries failed.*[Cc]onnect"):
        remote().open(f"{url}/file")


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        ("404", FileNotFoundError, "was not found"),
        ("410", FileNotFoundError, "was not found"),
        ("401", StoreError, "credentials"),
        ("403", StoreError, "credentials"),
        ("400", StoreError, "which another try does not mend"),
        ("416", StoreError, "fewer bytes"),
    ],
)
def test_what_another_try_does_not_mend_is_not_tried_again(
    server: FaultyServer, status: str, kind: type[Exception], says: str
) -> None:
    file = remote().open(f"{server.url}/file", num_bytes=len(CONTENT))
    server.script = lambda asked: status
    with pytest.raises(kind, match=says):
        file.read(0, 100)
    assert len(server.asked) == 1


def test_a_server_that_knows_no_ranges_gives_the_range_all_the_same(server: FaultyServer) -> None:
    file = remote().open(f"{server.url}/file", num_bytes=len(CONTENT))
    for kind in ("whole", "whole-unsized"):
        server.script = lambda asked, kind=kind: kind  # type: ignore[misc]
        if kind == "whole":
            with pytest.warns(RuntimeWarning, match="answers with whole files"):
                assert file.read(0, 100) == CONTENT[:100]
        assert file.read(150_000, 700) == CONTENT[150_000:150_700]
        assert file.read(len(CONTENT) - 3, 3) == CONTENT[-3:]


def test_a_file_of_another_size_than_the_manifest_says_is_refused(server: FaultyServer) -> None:
    for said in (len(CONTENT) - 1, len(CONTENT) + 1):
        file = remote().open(f"{server.url}/file", num_bytes=said)
        with pytest.raises(StoreError, match=r"holds 200,000 bytes, its manifest says"):
            file.read(0, 100)
    server.script = lambda asked: "whole"
    with pytest.raises(StoreError, match="cut off or replaced"):
        remote().open(f"{server.url}/file", num_bytes=5).read(0, 5)


def test_compressed_answers_are_refused(server: FaultyServer) -> None:
    server.script = lambda asked: "gzip"
    with pytest.raises(StoreError, match="sent as gzip"):
        remote().open(f"{server.url}/file", num_bytes=len(CONTENT)).read(0, 100)


def test_the_size_is_known_without_head_and_without_a_length(server: FaultyServer) -> None:
    for fault in (None, "whole", "whole-unsized"):
        server.script = lambda asked, fault=fault: fault  # type: ignore[misc]
        assert file_bytes(f"{server.url}/file") == len(CONTENT)
        assert file_bytes(f"{server.url}/empty") == 0
    assert all(asked.method == "GET" for asked in server.asked)
    server.script = lambda asked: None
    assert read_bytes(f"{server.url}/empty") == b""
    assert read_bytes(f"{server.url}/file") == CONTENT
    with pytest.raises(FileNotFoundError):
        file_bytes(f"{server.url}/nothing")


def test_redirects_are_followed_with_their_range(server: FaultyServer) -> None:
    server.script = lambda asked: "to:/file" if asked.path == "/moved" else None
    file = remote().open(f"{server.url}/moved")
    assert file.num_bytes == len(CONTENT)
    assert file.read(5, 10) == CONTENT[5:15]


def test_whole_files_are_read_in_pieces(
    server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PIECE_BYTES", 30_000)
    server.script = first_try("truncated")
    expected = hashlib.sha256(CONTENT).hexdigest()
    assert sha256_of(f"{server.url}/file", remote=remote()) == (len(CONTENT), expected)
    assert len({asked.byte_range for asked in server.asked}) == 1 + 7


# ---------------------------------------------------------------------------- kept on disk


def test_what_is_kept_goes_by_its_content_and_not_by_its_url(
    server: FaultyServer, tmp_path: Path
) -> None:
    here = remote(cache_folder=str(tmp_path / "cache"))
    for _ in range(2):
        file = here.open(f"{server.url}/file", num_bytes=len(CONTENT), identity="first")
        assert file.read(0, 100) == CONTENT[:100]
    assert len(server.asked) == 1
    (server.folder / "file").write_bytes(CONTENT[::-1])
    replaced = here.open(f"{server.url}/file", num_bytes=len(CONTENT), identity="second")
    assert replaced.read(0, 100) == CONTENT[::-1][:100]
    moved = here.open(f"{server.url}/elsewhere", num_bytes=len(CONTENT), identity="first")
    moved.prefetch(0, 100)
    assert moved.read(0, 100) == CONTENT[:100]
    assert len(server.asked) == 2


def test_what_has_no_identity_is_not_kept(server: FaultyServer, tmp_path: Path) -> None:
    file = remote(cache_folder=str(tmp_path / "cache")).open(f"{server.url}/file")
    assert file.read(0, 100) == file.read(0, 100)
    assert len(server.asked) == 3
    assert not (tmp_path / "cache").exists()


def test_a_forgotten_range_is_asked_for_again(server: FaultyServer, tmp_path: Path) -> None:
    here = remote(cache_folder=str(tmp_path / "cache"))
    file = here.open(f"{server.url}/file", num_bytes=len(CONTENT), identity="it")
    server.script = first_try("damaged")
    assert file.read(0, 100) != CONTENT[:100]
    file.forget(0, 100)
    assert file.read(0, 100) == CONTENT[:100]
    file.forget(0, 99)
    assert file.read(0, 100) == CONTENT[:100]
    assert len(server.asked) == 2


# ---------------------------------------------------------------------------- reading ahead


def test_a_range_read_ahead_is_not_asked_for_again(server: FaultyServer) -> None:
    file = remote().open(f"{server.url}/file", num_bytes=len(CONTENT))
    for offset in range(0, 200_000, 10_000):
        file.prefetch(offset, 10_000)
        file.prefetch(offset, 10_000)
    for offset in range(0, 200_000, 10_000):
        assert file.read(offset, 10_000) == CONTENT[offset:][:10_000]
    assert len(server.asked) == 20


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "slow"])
def test_what_fails_ahead_of_time_is_read_when_it_is_needed(
    server: FaultyServer, fault: str
) -> None:
    server.script = first_try(fault)
    file = remote().open(f"{server.url}/file", num_bytes=len(CONTENT))
    for offset in range(0, 80_000, 10_000):
        file.prefetch(offset, 10_000)
    for offset in range(0, 80_000, 10_000):
        assert file.read(offset, 10_000) == CONTENT[offset:][:10_000]


def test_a_refusal_ahead_of_time_is_told_by_the_read(server: FaultyServer) -> None:
    server.script = lambda asked: "403"
    file = remote().open(f"{server.url}/file", num_bytes=len(CONTENT))
    file.prefetch(0, 10)
    with pytest.raises(StoreError, match="credentials"):
        file.read(0, 10)


def test_closing_ends_a_read_that_waits(server: FaultyServer) -> None:
    server.script = lambda asked: "hang" if asked.again % 2 else "503"
    file = remote(timeout_seconds=30, tries=50, pause_seconds=5).open(
        f"{server.url}/file", num_bytes=len(CONTENT)
    )
    errors: list[str] = []

    def read() -> None:
        with pytest.raises(OSError, match="was closed") as error:
            file.read(0, 100)
        errors.append(str(error.value))

    threads = [threading.Thread(target=read, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(server.asked) < 3:
        time.sleep(0.01)
    started = time.perf_counter()
    file.close()
    for thread in threads:
        thread.join(10)
    assert len(errors) == 3
    assert time.perf_counter() - started < 5


def test_many_threads_read_one_file(server: FaultyServer) -> None:
    file = remote().open(f"{server.url}/file", num_bytes=len(CONTENT))
    server.script = lambda asked: "500" if not asked.again and asked.byte_range else None
    wrong: list[int] = []

    def read(number: int) -> None:
        offsets = range(number * 997, 190_000, 19_000)
        wrong.extend(at for at in offsets if file.read(at, 5000) != CONTENT[at : at + 5000])

    threads = [threading.Thread(target=read, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert not wrong


# ---------------------------------------------------------------------------- beside the network


def test_no_thread_is_left_when_nothing_is_read(server: FaultyServer) -> None:
    file = remote().open(f"{server.url}/file", num_bytes=len(CONTENT))
    for offset in range(0, 200_000, 10_000):
        file.prefetch(offset, 10_000)
    assert file.read(0, 10_000) == CONTENT[:10_000]
    file.close()
    deadline = time.perf_counter() + 10
    while any(thread.name == "wdtrain-prefetch" for thread in threading.enumerate()):
        assert time.perf_counter() < deadline
        time.sleep(0.01)


def test_a_remote_crosses_a_process_border_as_its_declaration() -> None:
    access = RemoteAccess(tries=3, cache_folder="/nowhere", cache_bytes=7)
    assert pickle.loads(pickle.dumps(Remote(access))).access == access


@pytest.mark.parametrize(
    ("field", "value"),
    [("tries", 0), ("connections", 0), ("cache_bytes", -1), ("timeout_seconds", 0)],
)
def test_an_access_that_cannot_work_is_refused_by_field(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=field):
        RemoteAccess(**{field: value})


def test_waits_double_are_bounded_and_follow_from_the_request() -> None:
    patience = Patience(pause_seconds=0.25)
    waits = [patience.pause("a", number) for number in range(20)]
    assert waits == [patience.pause("a", number) for number in range(20)]
    for number, seconds in enumerate(waits):
        whole = min(15.0, 0.25 * 2**number)
        assert whole / 2 <= seconds <= whole
    assert len({patience.pause(what, 3) for what in "abcdefgh"}) == 8


def test_a_recipe_says_where_remote_data_is_kept(tmp_path: Path) -> None:
    def access(*overrides: str) -> RemoteAccess:
        recipe = load_recipe(ROOT / "recipes" / "playground.yaml", list(overrides))
        assert not {key for key in recipe.numeric_keys() if key.startswith("data.cache")}
        return access_of(recipe.data)

    assert access() == RemoteAccess()
    for text, size in (("512MiB", 512 << 20), ("1.5GiB", 3 << 29), ("123456", 123_456)):
        wanted = RemoteAccess(cache_folder="/scratch", cache_bytes=size)
        assert access("data.cache=/scratch", f"data.cache_bytes={text}") == wanted
    with pytest.raises(RecipeError, match=r"data\.cache_bytes: 'lots'.*in 20GiB"):
        access("data.cache_bytes=lots")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense://host/data", "cannot be opened"),
        ("simplecache::https://host/data", "chain of filesystems"),
    ],
)
def test_what_cannot_be_spoken_to_is_refused_by_name(url: str, says: str) -> None:
    with pytest.raises(StoreError, match=says):
        open_file(url)


def test_files_in_memory_and_on_disk_are_read_through_their_urls(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    with fsspec.open("memory://remote-test/file", "wb") as file:
        file.write(CONTENT)
    for url in (f"file://{tmp_path}/file", "memory://remote-test/file"):
        opened = open_file(url)
        opened.prefetch(10, 20)
        assert opened.num_bytes == len(CONTENT)
        assert opened.read(10, 20) == CONTENT[10:30]
        assert opened.read(len(CONTENT) - 5, 20) == CONTENT[-5:]
        assert read_bytes(url) == CONTENT
    with pytest.raises(FileNotFoundError):
        open_file("memory://remote-test/nothing")
    with pytest.raises(FileNotFoundError):
        open_file(f"file://{tmp_path}")
    fsspec.filesystem("memory").rm("/remote-test", recursive=True)
