"""What may be told of a URL: never what is secret in it, in an error, a log or a report."""

from __future__ import annotations

import base64
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.remote.servers import FaultyServer
from tests.remote.test_remote_stream import load
from wdtrain.commands.inspect_shards import main
from wdtrain.remote.urls import has_secrets, join_url, redacted, was_redacted, without_secrets
from wdtrain.store.manifest import Manifest
from wdtrain.stream import Order

WORD = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789+=~._-", min_size=6, max_size=20)
SECRET = WORD.map(lambda word: f"s3cr3t{word}")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://host/data", "https://host/data"),
        ("https://host:8080/data@2/x", "https://host:8080/data@2/x"),
        ("http://[::1]:80/data", "http://[::1]:80/data"),
        ("https://bob:pw@host/data", "https://...@host/data"),
        ("https://token@host/data", "https://...@host/data"),
        ("https://bob:p/w@host/data", "https://...@host/data"),
        ("https://host/d?X-Amz-Signature=ab&x=1#frag", "https://host/d?X-Amz-Signature=...&x=..."),
        ("https://host/d?token", "https://host/d?..."),
        ("s3://id:key@bucket/d", "s3://...@bucket/d"),
        ("s3://id:k/e+y@bucket/d", "s3://...@bucket/d"),
        ("ftp://bob:pw@host:21/d", "ftp://...@host:21/d"),
        ("abfs://container@account.host/d", "abfs://container@account.host/d"),
        ("simplecache::https://bob:pw@host/d?sig=a", "simplecache::https://...@host/d?sig=..."),
        ("zip://x::s3://id:key@bucket/d", "zip://x::s3://...@bucket/d"),
        ("/data/a@b?c=d", "/data/a@b?c=d"),
    ],
)
def test_a_url_is_told_without_what_is_secret(url: str, told: str) -> None:
    assert redacted(url) == told
    assert redacted(told) == told
    assert has_secrets(url) == (url != told) == was_redacted(told)
    assert not was_redacted(url)


@given(
    scheme=st.sampled_from(["http", "https", "s3", "ftp", "gs", "simplecache::https"]),
    user=st.none() | WORD,
    password=SECRET,
    signature=SECRET,
    name=st.sampled_from(["", "train-000000.tar", "manifest.json"]),
)
def test_no_secret_is_told_of_any_url_nor_of_a_text_with_it(
    scheme: str, user: str | None, password: str, signature: str, name: str
) -> None:
    about = f"{user}:{password}@" if user else ""
    url = join_url(f"{scheme}://{about}host/data?X-Sig={signature}&plain", name)
    basic = base64.b64encode(about.removesuffix("@").encode()).decode()
    text = f"404, message='no', url=URL({url!r}), {url}; Authorization: Basic {basic} {signature}"
    for told in (redacted(url), without_secrets(text, url)):
        assert "s3cr3t" not in told
        assert "host/data" in told
    assert "s3cr3t" not in without_secrets(f"see {url}: it fails")
    if about:
        assert basic not in without_secrets(text, url)


@pytest.mark.parametrize("secret", ["ab)s3cr3t", "ab'),s3cr3t", "ab]}s3cr3t)", "(s3cr3t)&s3cr3t"])
@pytest.mark.parametrize(
    "form",
    [
        "https://host/d?sig={}",
        "https://host/d?a=1&sig={}#x",
        "https://bob:{}@host/d",
        "https://host/d#{}",
        "simplecache::https://host/d?sig={}",
        "zip://x::s3://id:{}@host/d",
    ],
)
@pytest.mark.parametrize(
    "text", ["see {}: it fails", "url=URL('{}'), x", "['http://a/b','{}']", "({0},{0})", 'x "{}"']
)
def test_brackets_and_apostrophes_end_no_secret(text: str, form: str, secret: str) -> None:
    told = without_secrets(text.format(form.format(secret)))
    assert "s3cr3t" not in told
    assert "host/d" in told


def test_a_url_in_apostrophes_keeps_both() -> None:
    told = without_secrets("pack-shards 'https://host/d.tar?sig=s3cr3t&k=2' out")
    assert told == "pack-shards 'https://host/d.tar?sig=...&k=...' out"


def test_of_a_text_around_a_url_nothing_is_taken_out() -> None:
    for text in ("(see https://host/d), or ['s3://a/b']", "https://host/d, and bob@host/d: gone"):
        assert without_secrets(text) == text


@pytest.mark.parametrize("fault", ["404", "403", "400", "500", "to:LOOP", "gzip", "other-range"])
@pytest.mark.parametrize("about", ["bob:s3cr3tpw@{}", "{}?sig=s3cr3tsig"])
def test_no_error_of_a_store_and_no_traceback_tells_it(
    fault: str,
    about: str,
    packed: Callable[..., Manifest],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with FaultyServer(Path(packed().url).parent) as server:
        fails_in_silence(fault, about.format(f"{server.url.removeprefix('http://')}/set"), server)
    assert "s3cr3t" not in capsys.readouterr().err


def fails_in_silence(fault: str, place: str, server: FaultyServer) -> None:
    url = f"http://{place}"
    manifest = load(url)
    assert "s3cr3t" not in repr(manifest)
    with pytest.raises(ValueError, match="split 'nosuch' is not in http") as unknown:
        Order(manifest, "nosuch", seed=0)
    assert "s3cr3t" not in str(unknown.value)
    told = fault.replace("LOOP", url.replace("bob:s3cr3tpw@", ""))
    server.script = lambda asked: told
    with pytest.raises((OSError, ValueError)) as caught:
        load(url, tries=1)
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))
    if fault in ("404", "403", "400"):  # else the tool tries for half a minute
        assert main(["show", url]) == 2


@pytest.mark.parametrize(
    "url",
    ["https://h/d?sig=s3cr3t", "https://h/d?sig=s3cr3t&plain", "https://h/d?token", "s3://a:b@h/d"],
)
def test_a_url_that_was_told_is_not_taken_for_one(url: str) -> None:
    for told in (redacted(url), join_url(redacted(url), "manifest.json")):
        with pytest.raises(
            ValueError, match=r"without what is secret .* \(--data of predict, TARGET"
        ):
            load(told)
