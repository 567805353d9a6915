"""Where a run is in the order. Under 200 bytes, the same on every rank, and it travels with the
batch, so prefetching cannot falsify a checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from wdtrain.stream.order import ORDER_VERSION, Order, check_count


@dataclass(frozen=True)
class Cursor:
    """`position` samples of the order whose digest this is have been taken by committed steps."""

    position: int
    samples: int
    digest: str
    version: int = ORDER_VERSION

    @property
    def epoch(self) -> int:
        return self.position // self.samples

    @classmethod
    def at(cls, order: Order, position: int) -> Cursor:
        return cls(position, order.samples, order.digest)

    def dumps(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def loads(cls, text: str) -> Cursor:
        """What `dumps` wrote; ValueError for anything else."""
        try:
            cursor = cls(**json.loads(text))
            check_count("position", cursor.position, least=0)
            check_count("samples", cursor.samples)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{text[:80]!r} is not a cursor ({error})") from error
        return cursor

    def check_version(self) -> None:
        """Raises ValueError, with both versions named, for a cursor of another wdtrain's order."""
        if self.version != ORDER_VERSION:
            raise ValueError(
                f"cursor was saved for order {self.digest} of order version {self.version}, this "
                f"wdtrain reads in that of version {ORDER_VERSION}: samples come in "
                "another order, so an exact resume is impossible; finish the run with the wdtrain "
                "that began it, or start a new run from its weights (tasks.NAME.weights)"
            )

    def check(self, order: Order) -> None:
        """Raises ValueError, with both versions or digests named, unless the cursor was saved for
        `order`."""
        self.check_version()
        if (self.digest, self.samples) != (order.digest, order.samples):
            raise ValueError(
                f"cursor was saved for order {self.digest}, this one is {order.digest} (version "
                f"{ORDER_VERSION}): dataset, split, seed, lanes, chunk or shuffle_bytes differ, so "
                "an exact resume is impossible; start a new run, or restore them"
            )
