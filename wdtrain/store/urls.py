"""Paths and URLs as text: which is which, how a name is put behind one, how one may be shown.

The surprise: a signed URL (`https://host/data?sig=...`) keeps its query behind every name, and what
is printed of a URL leaves out the query and the password, which are secrets.
"""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit, urlunsplit


def is_url(path: str) -> bool:
    return "://" in path


def protocol_of(url: str) -> str:
    """`s3` of `s3://bucket/data`."""
    return url.partition("://")[0].lower()


def is_http(url: str) -> bool:
    return is_url(url) and protocol_of(url) in ("http", "https")


def split_query(url: str) -> tuple[str, str]:
    """A URL's place, and its query with the question mark; only HTTP has queries."""
    if not is_http(url):
        return url, ""
    place, mark, query = url.partition("?")
    return place, mark + query


def join(folder: str, name: str) -> str:
    """The path or URL of a file in a folder, an HTTP query kept at the end."""
    if not is_url(folder):
        return os.path.join(folder, name)
    place, query = split_query(folder)
    return f"{place.rstrip('/')}/{name}{query}"


def folder_of(url: str, name: str) -> str:
    """The folder or URL prefix meant by a path to it, or by one to its file `name`."""
    place, query = split_query(url)
    return (place.removesuffix(name).rstrip("/") or ".") + query


def shown(url: str) -> str:
    """A URL as it may be printed: without its password and the values of its query."""
    if not is_http(url):
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    query = re.sub(r"=[^&]*", "=...", parts.query)
    return urlunsplit((parts.scheme, host, parts.path, query, ""))
