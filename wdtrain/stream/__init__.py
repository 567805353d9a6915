"""Disk to device: the order (pure), the reader (threads), batches with their cursor."""

from wdtrain.stream.batches import Batch
from wdtrain.stream.cursor import Cursor
from wdtrain.stream.order import Order
from wdtrain.stream.reader import Stream, open_stream

__all__ = ["Batch", "Cursor", "Order", "Stream", "open_stream"]
