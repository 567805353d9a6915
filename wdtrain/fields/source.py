"""Where packing takes its samples from: the protocol of a source.

Anything with these members can be packed. A source is a pure function of its index: packing loads
samples in a shuffled order, in several processes, and again after a kill.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, runtime_checkable

import numpy as np

from wdtrain.fields.base import Field
from wdtrain.fields.sample import Sample

SPLITS: Final = (
    "train",
    "val-seen-seen",  # known background, known cut-out, their pair held out
    "val-seen-new",  # known background, held-out cut-out
    "val-new-seen",  # held-out background, known cut-out
    "val-new-new",  # both held out
    "val",  # a part is not known: what is held out of such samples, or of groups; or a person's own
    "test",  # a person's own
)


@runtime_checkable
class Source(Protocol):
    """Samples by index. Picklable: it travels to the packing processes.

    fields: what each sample is made of, in the order in which it is stored.

    `description` is JSON-able and stands in the manifest: no absolute path and no time in it. Two
    sources that give other samples must differ in it, or a packing of one is taken for the other.
    """

    @property
    def fields(self) -> tuple[Field, ...]: ...

    @property
    def description(self) -> dict[str, Any]: ...

    def __len__(self) -> int: ...

    def parts(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 [n] background and cut-out id of each int64 [n] index; -1 where not known."""

    def key(self, index: int) -> str:
        """The sample's name, [A-Za-z0-9_-]+, no two alike."""

    def load(self, index: int) -> Sample:
        """The sample, without the fields that it lacks; FieldError for one that must be rejected.
        Its arrays may be of any size, all of one sample of one."""


@runtime_checkable
class Grouped(Protocol):
    """A source whose samples come in groups (scenes, videos, patients): each group lies whole on
    one side of the split."""

    def groups(self, indices: np.ndarray) -> np.ndarray:
        """int64 [n] group id of each int64 [n] index; -1 where not known. The sample's JSON names
        its group as `group`."""
