"""What every test runs under: one thread of arithmetic a process, since tests run side by side.

Two processes of two OpenMP threads each on two cores wait for one another at every layer, which is
ten times slower than one thread each.
"""

from __future__ import annotations

import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"  # before torch, and for the processes that tests start

from hypothesis import settings

# Other tests run beside each, so how long an example takes says nothing.
settings.register_profile("beside-others", deadline=None)
settings.load_profile("beside-others")

# A shell that starts tests in the background has Ctrl-C ignored there, and so in all they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
