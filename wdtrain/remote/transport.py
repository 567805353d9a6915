"""One request to a remote store: a range of a file, or its size.

Owns what can go wrong with one and what each answer means: worth another try (Passing), not there
(FileNotFoundError), or refused (StoreError). HTTP goes over fsspec's session but not through its
`cat_file`, which shows neither whether a part came nor how large the file is. The surprise: every
request has a time limit, since a server that never answers is a fault like any other.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import wait
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final, TypeVar

from wdtrain.disk.failures import StoreError
from wdtrain.remote.retries import Closed, Passing
from wdtrain.remote.urls import has_secrets, is_http, protocol_of, redacted, without_secrets

_POLL_SECONDS: Final = 0.2
"""How soon a request that is waited for notices that its file was closed."""

_SLOWEST_BYTES_PER_SECOND: Final = 1 << 20
"""A request may take its time limit, and beyond that as long as its bytes take at this rate."""

_PIECE_BYTES: Final = 1 << 18
_TRY_AGAIN: Final = (408, 409, 423, 425, 429)
_NETWORK_LIBRARIES: Final = (
    "aiohttp", "aiobotocore", "azure", "botocore", "gcsfs", "google", "requests", "urllib3",
)  # fmt: skip
_NO_CREDENTIALS: Final = re.compile(r"Credential|Unauthorized|RefreshError|TokenRetrieval")
_CREDENTIALS: Final = {
    "s3": "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or, for a public "
    "bucket, FSSPEC_S3_ANON=true",
    "gs": "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS",
    "http": "sign the URL anew, or put the server's name and password into ~/.netrc",
}

_Answer = TypeVar("_Answer")


class Transport(ABC):
    """Requests to one store. Thread-safe."""

    def __init__(self, filesystem: Any, *, timeout_seconds: float) -> None:
        self._filesystem = filesystem
        self._timeout_seconds = timeout_seconds

    @abstractmethod
    def num_bytes(self, url: str, *, closed: threading.Event) -> int:
        """The size of a file."""

    @abstractmethod
    def fetch(
        self, url: str, offset: int, count: int, *, num_bytes: int, closed: threading.Event
    ) -> bytes:
        """Exactly the bytes [offset, offset + count), which the file of `num_bytes` has."""

    def _wait(
        self, asked: Coroutine[Any, Any, _Answer], num_bytes: int, closed: threading.Event
    ) -> _Answer:
        """What a coroutine returns, run by the filesystem's own loop; Passing after its time."""
        seconds = self._timeout_seconds + num_bytes / _SLOWEST_BYTES_PER_SECOND
        limited = asyncio.wait_for(asked, seconds)
        future = asyncio.run_coroutine_threadsafe(limited, self._filesystem.loop)
        try:
            while not closed.is_set():
                if wait((future,), _POLL_SECONDS).done:
                    return future.result()
            raise Closed("a remote file")
        except TimeoutError as error:
            raise Passing(f"no answer came within {seconds:.3g} s") from error
        finally:
            future.cancel()


class HttpTransport(Transport):
    """HTTP and HTTPS."""

    def __init__(self, filesystem: Any, *, timeout_seconds: float) -> None:
        super().__init__(filesystem, timeout_seconds=timeout_seconds)
        self._knows_ranges = True

    def num_bytes(self, url: str, *, closed: threading.Event) -> int:
        with _judging(url):
            return self._wait(self._num_bytes(url), 0, closed)

    def fetch(
        self, url: str, offset: int, count: int, *, num_bytes: int, closed: threading.Event
    ) -> bytes:
        travelling = count if self._knows_ranges else offset + count
        with _judging(url):
            return self._wait(self._fetch(url, offset, count, num_bytes), travelling, closed)

    async def _num_bytes(self, url: str) -> int:
        # The first byte is asked for rather than HEAD, which signed URLs and some servers refuse.
        async with await self._get(url, "bytes=0-0") as response:
            if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return 0  # there is no first byte
            _check_status(response, url)
            size = _total_of(response)
            if size is not None:
                response.close()
                return size
        async with await self._get(url, None) as response:
            _check_status(response, url)
            counted = 0
            while piece := await response.content.read(_PIECE_BYTES):
                counted += len(piece)
            return counted

    async def _fetch(self, url: str, offset: int, count: int, num_bytes: int) -> bytes:
        async with await self._get(url, f"bytes={offset}-{offset + count - 1}") as response:
            if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise _changed(url, num_bytes, "fewer")
            _check_status(response, url)
            total = _total_of(response)
            if total is not None and total != num_bytes:
                raise _changed(url, num_bytes, f"{total:,}")
            if response.status == HTTPStatus.PARTIAL_CONTENT:
                _check_range(response, offset, count)
                data = await _read(response, count + 1)
            else:  # its answer is the whole file
                self._note_no_ranges(url)
                await _skip(response, offset)
                data = await _read(response, count)
                response.close()
        if len(data) != count:
            than = "more than the" if len(data) > count else f"{len(data):,} of"
            raise Passing(f"{than} {count:,} bytes asked for came")
        return data

    def _note_no_ranges(self, url: str) -> None:
        if self._knows_ranges:
            self._knows_ranges = False
            warnings.warn(
                f"the server of {redacted(url)} answers with whole files where a part is asked "
                "for, so each block costs all that is before it; take a server that knows byte "
                "ranges (python -m http.server does not), or copy the dataset here",
                RuntimeWarning,
                stacklevel=2,
            )

    async def _get(self, url: str, byte_range: str | None) -> Any:
        filesystem = self._filesystem
        session = await filesystem.set_session()
        options = dict(filesystem.kwargs)
        # Bytes are counted as they lie in the file, so nothing may be compressed on the way.
        headers = {**options.pop("headers", {}), "Accept-Encoding": "identity"}
        if byte_range:
            headers["Range"] = byte_range
        return session.get(filesystem.encode_url(url), headers=headers, **options)


class FilesystemTransport(Transport):
    """Any other store that fsspec knows. One without asynchronous calls has no time limit."""

    def num_bytes(self, url: str, *, closed: threading.Event) -> int:
        path = self._filesystem._strip_protocol(url)
        with _judging(url):
            if self._filesystem.async_impl:
                info = self._wait(self._filesystem._info(path), 0, closed)
            else:
                info = self._filesystem.info(path)
        if info.get("type") == "directory":
            raise FileNotFoundError(f"{redacted(url)} was not found: it is a folder")
        return int(info["size"])

    def fetch(
        self, url: str, offset: int, count: int, *, num_bytes: int, closed: threading.Event
    ) -> bytes:
        path, bounds = (
            self._filesystem._strip_protocol(url),
            {"start": offset, "end": offset + count},
        )
        with _judging(url):
            if self._filesystem.async_impl:
                asked = self._filesystem._cat_file(path, **bounds)
                data: bytes = self._wait(asked, count, closed)
            else:
                data = self._filesystem.cat_file(path, **bounds)
        if len(data) != count:
            raise Passing(f"{len(data):,} bytes came where {count:,} were asked for")
        return data


def connect(url: str, *, timeout_seconds: float) -> Transport:
    """The way to the store that a URL names; StoreError where it cannot be spoken to."""
    import fsspec

    protocol = protocol_of(url)
    if "::" in url:
        raise StoreError(
            f"{redacted(url)} is a chain of filesystems, which is not read; name the dataset's own "
            "URL, and a local folder in data.cache to keep what was read"
        )
    try:
        kind = fsspec.get_filesystem_class(protocol)
        filesystem = kind(**_options(url, kind, timeout_seconds))
    except (ImportError, ValueError) as error:
        extra = {"s3": "wdtrain[s3]", "gs": "gcsfs", "gcs": "gcsfs"}.get(protocol)
        hint = f"; pip install '{extra}'" if extra else ""
        why = without_secrets(str(error), url)
        raise StoreError(f"{redacted(url)} cannot be opened: {why}{hint}") from None
    if hasattr(filesystem, "retries"):
        filesystem.retries = 1  # ours are bounded together; nested ones would multiply
    transport = HttpTransport if is_http(url) else FilesystemTransport
    return transport(filesystem, timeout_seconds=timeout_seconds)


def _options(url: str, kind: Any, timeout_seconds: float) -> dict[str, Any]:
    """What a filesystem is opened with, beneath what the user's own fsspec settings say."""
    import fsspec

    names = (kind.protocol,) if isinstance(kind.protocol, str) else kind.protocol
    own: dict[str, Any] = {}
    for name in names:
        own |= fsspec.config.conf.get(name, {})
    if is_http(url):
        import aiohttp

        # The limits of time are our own; aiohttp's five minutes for everything would add theirs.
        client = {
            "timeout": aiohttp.ClientTimeout(total=None),
            "trust_env": True,
            "auto_decompress": False,
        }
        client |= own.get("client_kwargs", {})
        # A signed URL is right to the letter; any other may hold spaces.
        return {"client_kwargs": client, "encoded": "?" in url}
    if "s3" in names:
        seconds = {"connect_timeout": timeout_seconds, "read_timeout": timeout_seconds}
        config = {**seconds, "retries": {"max_attempts": 0}, **own.get("config_kwargs", {})}
        return {"config_kwargs": config}
    return {}


# ---------------------------------------------------------------------------- what came over HTTP


def _check_status(response: Any, url: str) -> None:
    status = response.status
    if status >= HTTPStatus.BAD_REQUEST:
        pause = response.headers.get("Retry-After", "")
        seconds = float(pause) if pause.isdecimal() else 0.0
        raise _judged_status(status, url, f"{status} {response.reason}", seconds)
    if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        raise Passing(f"the server answered {status} {response.reason}")
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise StoreError(
            f"{redacted(url)} is sent as {encoding}, though its bytes were asked for as they are, "
            "so ranges of it cannot be read; switch off compression for it at the server"
        )


def _total_of(response: Any) -> int | None:
    """The size of the whole file, where the answer says it."""
    if response.status == HTTPStatus.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes .*/(\d+)", response.headers.get("Content-Range", ""))
        return int(found[1]) if found else None
    length: int | None = response.content_length
    return length


def _check_range(response: Any, offset: int, count: int) -> None:
    answered = response.headers.get("Content-Range", "nothing")
    if not answered.startswith(f"bytes {offset}-{offset + count - 1}/"):
        raise Passing(f"bytes {offset}-{offset + count - 1} were asked for, and {answered} came")


async def _read(response: Any, count: int) -> bytes:
    """At most `count` bytes."""
    pieces = bytearray()
    while len(pieces) < count:
        piece = await response.content.read(count - len(pieces))
        if not piece:
            break
        pieces += piece
    return bytes(pieces)


async def _skip(response: Any, count: int) -> None:
    while count > 0:
        piece = await response.content.read(min(count, _PIECE_BYTES))
        if not piece:
            raise Passing(f"the answer ended {count:,} bytes before what was asked for")
        count -= len(piece)


# ---------------------------------------------------------------------------- what went wrong


@contextmanager
def _judging(url: str) -> Iterator[None]:
    """Errors of the network's libraries come out as what they mean."""
    try:
        yield
    except Exception as error:
        judged = _judged(error, url)
        if judged is error:
            raise
        # Libraries put whole requests into their errors, which a traceback would show.
        raise judged from (None if has_secrets(url) else error)


def _judged(error: Exception, url: str) -> Exception:
    if isinstance(error, Passing | StoreError | Closed):
        return error
    status = _status_of(error)
    text = without_secrets(" ".join(str(error).split()), url) or type(error).__name__
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return _judged_status(HTTPStatus.NOT_FOUND, url, text)
    if isinstance(error, PermissionError) or _NO_CREDENTIALS.search(type(error).__name__):
        return _judged_status(HTTPStatus.FORBIDDEN, url, text)
    if status is not None:
        return _judged_status(status, url, text)
    if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
        return StoreError(f"{redacted(url)} cannot be read: {text}; check the URL")
    library = type(error).__module__.partition(".")[0]
    if isinstance(error, OSError | EOFError | ValueError) or library in _NETWORK_LIBRARIES:
        return Passing(f"{type(error).__name__}: {text}")
    return error


def _judged_status(status: int, url: str, text: str, pause_seconds: float = 0.0) -> Exception:
    """What an HTTP status means, whatever the store."""
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        return FileNotFoundError(f"{redacted(url)} was not found ({text})")
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        protocol = {"https": "http", "s3a": "s3", "gcs": "gs"}.get(
            protocol_of(url), protocol_of(url)
        )
        how = _CREDENTIALS.get(protocol, f"give this machine credentials for {protocol}")
        return StoreError(
            f"{redacted(url)} may not be read ({text}): its credentials are missing, wrong or have "
            f"expired (some stores say so of what is not there); {how}"
        )
    if status in _TRY_AGAIN or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Passing(f"the server answered {text}", pause_seconds=pause_seconds)
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return StoreError(
            f"{redacted(url)} is shorter than its manifest says: it was cut off or replaced; fetch "
            "the dataset again, or pack it again"
        )
    return StoreError(
        f"{redacted(url)} cannot be read: the server answered {text}, which another try does not "
        "mend; check the URL and the server's settings"
    )


def _status_of(error: Exception) -> int | None:
    """The HTTP status that an error of some store's library carries."""
    cause = error.__cause__ or error
    answer = getattr(cause, "response", None)
    if isinstance(answer, Mapping):  # botocore's
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    elif type(error).__module__.startswith("aiohttp"):
        return None  # its own errors are of the connection, whatever they carry
    else:  # gcsfs', azure's
        status = getattr(error, "code", None) or getattr(error, "status_code", None)
    if isinstance(status, str) and status.isdecimal():
        status = int(status)
    return status if isinstance(status, int) and 400 <= status < 600 else None


def _changed(url: str, num_bytes: int, found: str) -> StoreError:
    return StoreError(
        f"{redacted(url)} holds {found} bytes, its manifest says {num_bytes:,}: it was cut off or "
        "replaced; fetch the dataset again, or pack it again"
    )
