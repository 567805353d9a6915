"""What is on disk and how it is read. No torch.

Read `manifest.py` and `schema.py` (what a dataset is), `shards.py`, `frames.py` and `tar.py` (how
blocks lie in a shard), `samples.py` (how samples lie in a block), `filling.py` and `loading.py`
(many at once), `native.py` (the C loops), `limits.py` (what reading never exceeds).
"""
