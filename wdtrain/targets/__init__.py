"""What a network learns of a field: truth and validity, losses, metrics, baselines.

Read `truth.py` (from stored bytes to truth), `losses.py`, `masks.py` and `depths.py` (metrics as
sums that merge), `baselines.py` (what a network has to beat).
"""
