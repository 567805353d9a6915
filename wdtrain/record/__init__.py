"""What is kept and shown of a run: its log, console, checkpoints, scores and report.

Read `run.py` (the record of one run), `runlog.py`, `checkpoint.py`, `scores.py`, `report.py`, then
the console (`console_base.py` first).
"""
