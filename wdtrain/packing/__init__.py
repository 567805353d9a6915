"""A source becomes a dataset: planned, packed in parallel, resumable to the byte. No torch.

Read `pack.py` (the whole), `plan.py` (what will be done), `prepare.py` (one sample), `jobs.py` (one
shard), `shardfile.py` (its bytes), `processes.py` and `ray_engine.py` (who runs the jobs),
`staging.py` (files on disk until it is done), `splits.py`, `document.py` (the manifest); then
`verify.py` and `audit.py`, which judge what was packed.
"""
