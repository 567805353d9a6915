"""Paths and URLs as text: which is which, how a name is put behind one, how one may be shown.

The surprise: a signed URL (`https://host/data?sig=...`) keeps its query behind every name, and what
is shown of a URL, in an error, a log or a report, leaves out user, password and the query's values,
which are secrets.
"""

from __future__ import annotations

import base64
import os
import re
from typing import Final
from urllib.parse import unquote, unquote_plus

_LINK: Final = re.compile(r"::(?=[A-Za-z][\w+.-]*://)")
_SCHEME: Final = r"[A-Za-z][\w+.-]*://"
_ONE: Final = (
    rf"{_SCHEME}(?:(?:(?!://)[^\s\"<>])*@)?"
    rf"(?:(?!(?:::)?{_SCHEME})[^\s'\"<>)\]}}?#])*"
    r"(?:[?#][^\s\"<>]*)?"
)
_URL: Final = re.compile(rf"(?:[A-Za-z][\w+.-]*::)*{_ONE}(?:::{_ONE})*")
"""A URL in a text, or a chain. A bracket or an apostrophe ends its path; behind a question mark and
before an @ they may be a part of what is secret."""
_NAME: Final = re.compile(r"[\w.%\[\]-]*|\.\.\.")
_TOLD: Final = re.compile(r"://\.\.\.@|[?&][^=&#]*=\.\.\.(?=[&#:]|$)|[?&]\.\.\.(?=[&#:]|$)")
_SHORTEST: Final = 4
"""Shorter values stand in too many words to be taken out wherever they stand."""


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


def join_url(folder: str, name: str) -> str:
    """The path or URL of a file in a folder, an HTTP query kept at the end."""
    if not is_url(folder):
        return os.path.join(folder, name)
    place, query = split_query(folder)
    return f"{place.rstrip('/')}/{name}{query}"


def folder_of(url: str, name: str) -> str:
    """The folder or URL prefix meant by a path to it, or by one to its file `name`."""
    place, query = split_query(url)
    return (place.removesuffix(name).rstrip("/") or ".") + query


def redacted(url: str) -> str:
    """A URL as it may be shown: "..." for user and password and for the values of its query, and no
    fragment."""
    if not is_url(url):
        return url
    return "::".join(map(_shown, _LINK.split(url)))  # of a chain of filesystems, each


def _shown(url: str) -> str:
    if not is_url(url):
        return url
    place, mark, query = url.partition("#")[0].partition("?")
    scheme, _, rest = place.partition("://")
    about = _user(url)
    if about:
        rest = f"...{rest.removeprefix(about)}"
    values = [
        f"{name if _NAME.fullmatch(name) else '...'}=..." if equals else "..."
        for name, equals, _ in _parts(query)
    ]
    return f"{scheme}://{rest}{mark}{'&'.join(values)}"


def _user(url: str) -> str:
    """What stands before the host: user and password, or a token. "container@account", as some
    stores have it, is none. A password may hold slashes, though it should not."""
    rest = url.partition("://")[2]
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user = host.rpartition("@")[0]
    if user:
        return user if ":" in user or is_http(url) else ""
    torn = re.match(r"([^/?#@:]*:(?!\d{1,5}(?:[/?#]|$))[^@\s]*)@", rest)
    return torn[1] if torn else ""


def _parts(query: str) -> list[tuple[str, str, str]]:
    return [part.partition("=") for part in query.split("&")] if query else []


def was_redacted(url: str) -> bool:
    """Whether a URL is what `shown` makes of one that holds secrets, so that it opens nothing."""
    return is_url(url) and _TOLD.search(url) is not None


def has_secrets(url: str) -> bool:
    """Whether a URL holds what `shown` leaves out."""
    return redacted(url) != url


def _told_in_text(found: re.Match[str]) -> str:
    """As `redacted`, and a URL in apostrophes, as in a command, keeps the closing one."""
    url, before = found[0], found.string[: found.start()][-1:]
    is_quoted = before == "'" and url.endswith("'")
    return f"{redacted(url[:-1])}'" if is_quoted else redacted(url)


def without_secrets(text: str, *urls: str) -> str:
    """A text of anybody's, as an error of a library: the URLs in it as they may be shown, and
    nowhere what is secret in `urls`."""
    text = _URL.sub(_told_in_text, text)
    for url in urls:
        user, query = _user(url), url.partition("#")[0].partition("?")[2]
        secrets = [user, *user.split(":"), base64.b64encode(user.encode()).decode()]
        secrets += [value for _, _, value in _parts(query)]
        found = {each for raw in secrets for each in (raw, unquote(raw), unquote_plus(raw))}
        for secret in sorted(found, key=len, reverse=True):  # one may be a part of another
            if len(secret) >= _SHORTEST:
                text = text.replace(secret, "...")
    return text
