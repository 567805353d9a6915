"""Datasets that exist only as numbers, for the laws of the order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from wdtrain.fields import DepthFormat, Field, triple_of


@dataclass(frozen=True)
class FakeShard:
    name: str
    samples: int
    num_bytes: int = 0


@dataclass(frozen=True)
class FakeSplit:
    shards: tuple[FakeShard, ...]

    @property
    def samples(self) -> int:
        return sum(shard.samples for shard in self.shards)


def _triple() -> dict[str, Field]:
    return {one.name: one for one in triple_of(DepthFormat())}


@dataclass(frozen=True)
class FakeManifest:
    """As much of a manifest as the order reads."""

    splits: dict[str, FakeSplit]
    samples_per_block: int
    height: int = 8
    width: int = 8
    fields: dict[str, Field] = field(default_factory=_triple)
    digest: str = "d"
    url: str = "fake"
    is_compressed: bool = True
    index: None = None


SAMPLE_BYTES = 8 * 8 * 5 + 4096
"""Of a fake dataset of 8 x 8 pixels, as the order reckons them."""


def fake_manifest(sizes: list[int], block: int, *, side: int = 8) -> Any:
    shards = tuple(FakeShard(f"train-{i:06d}", size) for i, size in enumerate(sizes))
    return FakeManifest({"train": FakeSplit(shards)}, block, side, side)


@st.composite
def orders(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of an order over a small dataset of odd shapes."""
    return {
        "sizes": draw(st.lists(st.integers(1, 90), min_size=1, max_size=5)),
        "block": draw(st.integers(1, 17)),
        "lanes": draw(st.integers(1, 9)),
        "chunk": draw(st.integers(1, 8)),
        "seed": draw(st.integers(0, 2**31)),
        "shuffle_bytes": draw(st.integers(1, 500) | st.just(500)) * SAMPLE_BYTES,
    }
