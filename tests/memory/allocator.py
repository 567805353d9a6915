"""What PyTorch's own record says that the CPU allocator held."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch.profiler import ProfilerActivity, profile


def cpu_peak_bytes(work: Callable[[], object]) -> int:
    """The most that was allocated at once while `work` ran, above what was when it began.

    It is run once before, so that what is made but once (threads, caches) is there already.
    """
    work()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    events = sorted((e for e in events if e["name"] == "[memory]"), key=lambda event: event["ts"])
    found = [event["args"] for event in events]
    # PyTorch counts what an earlier profile saw made and not freed as held for ever.
    before = found[0]["Total Allocated"] - found[0]["Bytes"]
    peak: int = max(args["Total Allocated"] for args in found) - before
    return peak
