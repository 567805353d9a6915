"""Memory of the device: how large a micro-batch may be, measured or estimated, or why none fits.

Read `planner.py` (which micro-batch, from a few probes), `fitting.py` (the probes, and what is done
with them), `metering.py`, `intensity_memory.py` and `estimate.py` (what a device that is not here
would need), and `refusal.py` (the message where not even one norm group fits).
"""

from wdtrain.memory.fitting import CudaGauge, Fitting, budget_bytes
from wdtrain.memory.planner import explain_choices
from wdtrain.memory.refusal import estimate_lines, explain_refusal

__all__ = [
    "CudaGauge",
    "Fitting",
    "budget_bytes",
    "estimate_lines",
    "explain_choices",
    "explain_refusal",
]
