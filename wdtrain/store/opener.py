"""For users of the webdataset library: opening shards of several zstd frames.

Python's `tarfile` in stream mode, which that library reads with, knows no zstd before Python 3.14,
and only one frame after. Either `register_opener()`, which adds a URL scheme, or take `open_shards`
as a stage. It imports webdataset (and with it torch) only when called; nothing else in the store
imports this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import zstandard

from wdtrain.store.manifest import Manifest

SCHEME: Final = "zst"


def register_opener() -> None:
    """`webdataset` opens URLs like `zst:PATH` and `zst:https://...` of compressed shards.

    Holds for this process: workers that are spawned and not forked must call it too, so there the
    stage `open_shards` is the safer way.
    """
    import webdataset

    webdataset.gopen_schemes[SCHEME] = _open


def shard_urls(manifest: Manifest, split: str) -> list[str]:
    """What to give webdataset for a split, after `register_opener()`."""
    prefix = f"{SCHEME}:" if manifest.is_compressed else ""
    return [prefix + manifest.shard_url(shard) for shard in manifest.split(split).shards]


def open_shards(
    data: Iterable[dict[str, Any]], handler: Callable[[Exception], bool] | None = None
) -> Iterator[dict[str, Any]]:
    """A pipeline stage in the place of webdataset's own opener: dicts with `url` get a `stream`.

    For URLs with or without the scheme, with or without zstd:
    `wds.DataPipeline(wds.SimpleShardList(urls), open_shards, expand_and_group, ...)`.
    An error goes to `handler` as in webdataset: it says whether to go on; without one it is raised.
    """
    for sample in data:
        try:
            stream = _open(sample["url"])
        except Exception as error:
            if handler is None or not handler(error):
                raise
            continue
        yield {**sample, "stream": stream}


def expand_and_group(data: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The stage after `open_shards`: webdataset's own reading of tar streams into samples."""
    from webdataset import tariterators

    yield from tariterators.group_by_keys(tariterators.tar_file_expander(data))


def _open(url: str, mode: str = "rb", bufsize: int = 8192, **options: Any) -> Any:
    """A readable stream of the tar in a shard, whatever its frames."""
    import webdataset

    if mode != "rb":
        raise ValueError(f"{SCHEME}: URLs are for reading; the mode is {mode!r}")
    inner = url.removeprefix(f"{SCHEME}:")
    packed = webdataset.gopen(inner, "rb", bufsize, **options)
    if not inner.endswith(".zst"):
        return packed
    return zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True)
