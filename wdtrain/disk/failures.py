"""What can be wrong with a dataset or a run on disk, each with the names a person needs to find it.

All are ValueErrors: commands turn them into one `error:` line. They keep their parts in `args`, so
they cross a process border whole.
"""

from __future__ import annotations


class StoreError(ValueError):
    """A dataset, a source or a target that cannot be used; the message says what to do."""


class DamagedBlock(StoreError):
    """A block whose bytes are not those that were packed."""

    def __init__(self, shard: str, block: int, why: str) -> None:
        super().__init__(shard, block, why)
        self.shard, self.block, self.why = shard, block, why

    def __str__(self) -> str:
        return f"shard {self.shard}, block {self.block} is damaged: {self.why}"


class DamagedSample(StoreError):
    """A sample that cannot be decoded into what the manifest promises."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(key, why)
        self.key, self.why = key, why

    def __str__(self) -> str:
        return f"sample {self.key} is damaged: {self.why}"


class RunError(ValueError):
    """A run folder that cannot be used as asked: the message says why and what to do."""
