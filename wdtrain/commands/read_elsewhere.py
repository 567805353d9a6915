"""How others read packed shards, with no code of ours: programs that a person may copy.

Each is whole: a test runs them as they are printed. Those that a library needs beside itself are
named in their first line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Final

from wdtrain.remote.urls import is_url, redacted
from wdtrain.store.manifest import Manifest

_NUMBER: Final = re.compile(r"\d+")


def programs(manifest: Manifest, split: str) -> dict[str, str]:
    """By title, Python programs that go through the samples of a split."""
    folder = manifest.url if is_url(manifest.url) else os.path.abspath(manifest.url)
    names = [shard.name for shard in manifest.split(split).shards]
    framed = names[0].endswith(".zst")
    shards = f"shards = {_listed(redacted(folder).rstrip('/'), names)}"
    return {
        "webdataset": _webdataset(shards, framed, is_url(folder)),
        "tarfile": _tarfile(shards, framed, is_url(folder)),
        "Hugging Face datasets": _datasets(shards, framed),
    }


def _listed(folder: str, names: Sequence[str]) -> str:
    """A Python expression of the paths of shards: counted where their names count."""
    found = _NUMBER.search(names[0])
    if found is not None and len(names) > 1 and not set('{}"\\') & set(folder):
        counted = f"{names[0][: found.start()]}{{n:0{len(found[0])}d}}{names[0][found.end() :]}"
        if [counted.format(n=number) for number in range(len(names))] == list(names):
            return f'[f"{folder}/{counted}" for n in range({len(names)})]'
    return repr([f"{folder}/{name}" for name in names])


def _webdataset(shards: str, framed: bool, remote: bool) -> str:
    lines = ["import webdataset" + ("  # and the zstd command" if framed else ""), "", shards]
    urls = "shards"
    if framed:
        command = "curl -sfL '{url}' | zstd -dc" if remote else "zstd -dc '{url}'"
        urls = f'[f"pipe:{command}" for url in shards]'
    lines += [
        f"for sample in webdataset.WebDataset({urls}, shardshuffle=False):",
        '    print(sample["__key__"], sorted(sample))',
    ]
    return "\n".join(lines)


def _tarfile(shards: str, framed: bool, remote: bool) -> str:
    lines = ["import tarfile", *(["import urllib.request"] if remote else [])]
    lines += ["", "import zstandard", ""] if framed else [""]
    opened = "urllib.request.urlopen(url)" if remote else 'open(url, "rb")'
    lines += [shards, "for url in shards:", f"    with {opened} as file:"]
    if framed:
        lines += [
            "        inflater = zstandard.ZstdDecompressor()",
            "        file = inflater.stream_reader(file, read_across_frames=True)",
        ]
    lines += [
        '        with tarfile.open(fileobj=file, mode="r|") as tar:',
        "            for member in tar:",
        "                data = tar.extractfile(member).read()",
        "                print(member.name, len(data))",
    ]
    return "\n".join(lines)


def _datasets(shards: str, framed: bool) -> str:
    files = "shards"
    lines = ["import datasets", "", shards]
    if framed:
        lines += ["names = [url.rpartition('/')[2].removesuffix('.zst') for url in shards]"]
        files = '[f"zstd://{name}::{url}" for name, url in zip(names, shards)]'
    lines += [
        f"files = {files}",
        'rows = datasets.load_dataset("webdataset", data_files={"train": files}, split="train",',
        "                             streaming=True)",
        "for row in rows:",
        '    print(row["__key__"], sorted(row))',
    ]
    return "\n".join(lines)
