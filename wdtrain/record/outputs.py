"""What a tool writes for its user: whole files, under names that were free, with a record of them.

No tool writes over what it did not make. `.wdtrain-made.jsonl` beside the results says which tool
wrote which bytes under which name; a file is replaced only where it still holds such bytes of the
same tool, and only if that was asked for.
The surprise: the record gets its line before the file gets its name, so that after a kill no file
of ours is a stranger; and it is only ever appended to, so that several processes share a folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Self

from wdtrain.disk.durable import sync_folder

RECORD_NAME = ".wdtrain-made.jsonl"
TEMPORARY_PREFIX = ".wdtrain-"
OVERWRITE_HELP = "replace what this tool wrote there before, and nothing else"

_LONGEST_PART_BYTES = 150
_NO_LINKS_HERE = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)
_UNSAFE = frozenset('\\<>:"|?*')


class OutputError(ValueError):
    """A result that cannot be written without harm: what is already there, why, what to do."""


class Made(NamedTuple):
    """A line of the record: `tool` wrote these bytes under `name`, relative to the record."""

    name: str
    tool: str
    sha256: str


class Outputs:
    """The results of `tool` in `folder`, which is made with the first of them.

    overwrite: files that the record says this tool made, unchanged since, may be replaced.
    """

    def __init__(self, folder: Path | str, tool: str, *, overwrite: bool = False) -> None:
        self.folder = Path(folder)
        self.tool = tool
        self._overwrite = overwrite
        self._made: dict[str, set[str]] = {}
        for made in read_record(self.folder):
            if made.tool == tool:
                self._made.setdefault(made.name, set()).add(made.sha256)

    @classmethod
    def for_file(cls, path: Path, tool: str, *, overwrite: bool, ending: str) -> Self:
        """Those of a tool that writes one file, checked: its `write(path.name, ...)` may follow."""
        if path.is_dir() or not path.name:
            raise OutputError(f"{path} is a folder; name a file in it, such as {path}/x{ending}")
        if path.suffix.lower() != ending:
            raise OutputError(
                f"{path} does not end in {ending}, which is what is written; programs would take "
                f"it for something else; name it {path.stem}{ending}"
            )
        outputs = cls(path.parent, tool, overwrite=overwrite)
        outputs.check([path.name])
        return outputs

    def check(self, names: Iterable[str]) -> None:
        """OutputError if the folder, or one of these names in it, cannot be written to.

        To be asked before long work, since `write` would refuse at its end.
        """
        _check_folder(self.folder)
        refused = [name for name in names if self._refusal(name)]
        if refused:
            more = f" (and {len(refused) - 1:,} more like it)" if len(refused) > 1 else ""
            raise OutputError(self._refusal(refused[0]) + more)

    def write(self, name: str, data: bytes) -> None:
        """`folder/name` holds all of `data`, on disk; or is as it was, and an error says why.

        name: relative, "/" between folders. OutputError where something exists there that may
        not be replaced; OSError, which names the file, where the system refuses.
        """
        path = self._path(name)
        if refusal := self._refusal(name):
            raise OutputError(refusal)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._note(name, data)
        try:
            _write(path, data, replaces=self._overwrite)
        except FileExistsError as error:  # since it was looked for
            raise OutputError(self._refusal(name) or f"{path} exists already") from error

    def _path(self, name: str) -> Path:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts:
            raise OutputError(f"result {name!r} would be outside of {self.folder}; rename its key")
        return self.folder / name

    def _refusal(self, name: str) -> str:
        """Why this name may not be written to; "" where it may."""
        path = self._path(name)
        if not os.path.lexists(path):
            return ""
        known = self._made.get(name, set())
        if not known or path.is_symlink() or not path.is_file():
            return (
                f"{path} exists and was not made by {self.tool}, which never writes over what "
                "others made; move it away, or choose another --out"
            )
        if _sha256(path) not in known:
            return (
                f"{path} has been changed since {self.tool} made it, and would be lost; move it "
                "away, or choose another --out"
            )
        if not self._overwrite:
            return (
                f"{path} is there already, made by {self.tool} before; give --overwrite to replace "
                "it, or choose another --out"
            )
        return ""

    def _note(self, name: str, data: bytes) -> None:
        made = Made(name, self.tool, hashlib.sha256(data).hexdigest())
        known = self._made.setdefault(name, set())
        if made.sha256 in known:
            return
        path = self.folder / RECORD_NAME
        with _naming(path), path.open("a", encoding="ascii") as file:
            file.write(json.dumps(made._asdict()) + "\n")
        known.add(made.sha256)


def read_record(folder: Path) -> Iterator[Made]:
    """What tools have noted of this folder; nothing where they have noted nothing."""
    try:
        text = (folder / RECORD_NAME).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            yield Made(**json.loads(line))
        except (ValueError, TypeError):
            continue  # half a line, of a write that was killed: its file is then a stranger


def write_new(path: Path, data: bytes, *, synced: bool = True) -> None:
    """`path` holds all of `data`. FileExistsError if it held anything else, and then still does.

    synced: after a power cut too. For folders that are one tool's own as a whole, without a record.
    """
    try:
        _write(path, data, synced=synced)
    except FileExistsError:
        if path.is_symlink() or not path.is_file() or path.read_bytes() != data:
            raise


def _write(path: Path, data: bytes, *, replaces: bool = False, synced: bool = True) -> None:
    """Written under a temporary name, then named. Without `replaces` by a link, which never takes
    a name away."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}.partial")
    with _naming(path):
        try:
            with temporary.open("xb") as file:
                file.write(data)
                if synced:
                    file.flush()
                    os.fsync(file.fileno())
            if replaces:
                temporary.replace(path)
            else:
                _link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        if synced:
            sync_folder(path.parent)


def _link(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS_HERE:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        temporary.rename(path)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An error of the system names `path`, not the temporary file."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


def _check_folder(folder: Path) -> None:
    there = folder
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise OutputError(
            f"{there} is a file, so nothing can be written below it; choose another --out"
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(
            f"{there} may not be written to; change its permissions, or choose another --out"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safe_name(text: str) -> str:
    """`text`, a key or a path, as a relative path that stays below what it is joined to.

    No root, no `..`, no empty or hidden part, no character that file systems or terminals take
    amiss, no part that is too long. Different texts may become the same.
    """
    parts = [_safe_part(part) for part in text.split("/")]
    return "/".join(part for part in parts if part) or "unnamed"


def _safe_part(part: str) -> str:
    clean = "".join(one if one.isprintable() and one not in _UNSAFE else "_" for one in part)
    clean = clean.strip().lstrip(".")
    data = clean.encode()
    if len(data) <= _LONGEST_PART_BYTES:
        return clean
    digest = hashlib.blake2b(data, digest_size=4).hexdigest()
    return f"{data[:_LONGEST_PART_BYTES].decode(errors='ignore')}-{digest}"
