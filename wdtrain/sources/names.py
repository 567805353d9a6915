"""Names of files as keys of samples, by a rule that can be turned back.

A key may hold letters, digits, - and _ only: a WebDataset cuts names at their first dot. These stay
as they are, a folder's slash becomes `__`, and every other byte of the UTF-8 name `-_` and two hex
digits: `room 1/0007.left` -> `room-_201__0007-_2eleft`. Only a `-` or `_` that would read as one of
these is written as a byte, too. No two names give one key.
"""

from __future__ import annotations

import os
import re
from typing import Final

import xxhash

_HASH_MARK: Final = "-_x"
"""No escape begins so: x is no hex digit."""
_PLAIN: Final = re.compile(rb"[A-Za-z0-9]+(?:[-_][A-Za-z0-9]+)*")
_ESCAPED: Final = re.compile(rb"[_-](?=[_/])|[^A-Za-z0-9_/-]")
_READ: Final = re.compile(r"__|-_([0-9a-f]{2})")


def key_of(name: str | bytes, most: int) -> str:
    """The key of a name, of at most `most` characters (40 or more): a longer one ends in `-_x` and
    a hash of 128 bits instead of its end."""
    data = os.fsencode(name) if isinstance(name, str) else name
    if _PLAIN.fullmatch(data):
        key = data.decode()
    else:
        key = _ESCAPED.sub(_escape, data).replace(b"/", b"__").decode()
    if len(key) <= most:
        return key
    ending = _HASH_MARK + xxhash.xxh3_128_hexdigest(data)
    return key[: most - len(ending)] + ending


def _escape(found: re.Match[bytes]) -> bytes:
    return b"-_%02x" % found[0][0]


def name_of(key: str) -> str:
    """The name that a key was made of; ValueError for a key that ends in a hash."""
    if re.search(rf"{_HASH_MARK}[0-9a-f]{{32}}$", key):
        raise ValueError(f"{key!r} ends in a hash; the sample's JSON holds its name")
    parts, at = [], 0
    for found in _READ.finditer(key):
        parts.append(key[at : found.start()].encode())
        parts.append(b"/" if found[1] is None else bytes([int(found[1], 16)]))
        at = found.end()
    return os.fsdecode(b"".join(parts) + key[at:].encode())


def printable(name: bytes) -> str:
    """A name as it stands in a sample's JSON and in messages; bytes that are no UTF-8 as \\xNN."""
    return name.decode("utf-8", "backslashreplace")
