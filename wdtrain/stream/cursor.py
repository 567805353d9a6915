"""Where a run is in the order. Under 200 bytes, the same on every rank, and it travels with the
batch, so prefetching cannot falsify a checkpoint."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from wdtrain.stream.order import ORDER_VERSION, Order


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
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{text[:80]!r} is not a cursor ({error})") from error

    def check(self, order: Order) -> None:
        """Raises ValueError, with both digests named, unless the cursor was saved for `order`."""
        if (self.version, self.digest) != (ORDER_VERSION, order.digest):
            raise ValueError(
                f"cursor was saved for order {self.digest} (version {self.version}), this one is "
                f"{order.digest} (version {ORDER_VERSION}): dataset, split, seed, lanes or chunk "
                "differ, so an exact resume is impossible; start a new run, or restore them"
            )
