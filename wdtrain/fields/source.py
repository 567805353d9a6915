"""Where packing takes its triples from: the protocol of a source.

Anything with these members can be packed. A source is a pure function of its index: packing loads
samples in a shuffled order, in several processes, and again after a kill.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, runtime_checkable

import numpy as np

from wdtrain.triple import DepthFormat, Triple

SPLITS: Final = (
    "train",
    "val-seen-seen",  # known background, known cut-out, their pair held out
    "val-seen-new",  # known background, held-out cut-out
    "val-new-seen",  # held-out background, known cut-out
    "val-new-new",  # both held out
    "val",  # a part is not known: what is held out of such samples; or a person's own
    "test",  # a person's own
)


@runtime_checkable
class Source(Protocol):
    """Triples by index. Picklable: it travels to the packing processes.

    `description` is JSON-able and stands in the manifest: no absolute path and no time in it. Two
    sources that give other triples must differ in it, or a packing of one is taken for the other.
    """

    @property
    def depth_format(self) -> DepthFormat: ...

    @property
    def description(self) -> dict[str, Any]: ...

    def __len__(self) -> int: ...

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 [n] background and cut-out id of each int64 [n] index; -1 where not known."""

    def key(self, index: int) -> str:
        """The sample's name, [A-Za-z0-9_-]+, no two alike."""

    def load(self, index: int) -> Triple:
        """The triple; TripleError for one that must be rejected."""
