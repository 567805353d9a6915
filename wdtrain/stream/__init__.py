"""Disk to device: the order (pure), the reader (threads), batches with their cursor."""

from wdtrain.stream.batches import Batch
from wdtrain.stream.cursor import Cursor
from wdtrain.stream.opening import load_dataset, order_of, stream_of
from wdtrain.stream.order import Order
from wdtrain.stream.reader import Stream, open_stream
from wdtrain.stream.shares import balance_advice, fullest_share

__all__ = [
    "Batch",
    "Cursor",
    "Order",
    "Stream",
    "balance_advice",
    "fullest_share",
    "load_dataset",
    "open_stream",
    "order_of",
    "stream_of",
]
