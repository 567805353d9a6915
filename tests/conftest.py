"""What every test runs under: one thread of arithmetic a process, and a time limit.

Tests run side by side, and two processes of two OpenMP threads each on two cores wait for one
another at every layer, which is ten times slower than one thread each. The limit holds where
pytest-timeout is installed; as an option in pyproject.toml it would be an error elsewhere.
"""

from __future__ import annotations

import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"  # before torch, and for the processes that tests start
os.environ.setdefault("PYTEST_TIMEOUT", "300")

from hypothesis import settings

# Other tests run beside each, so how long an example takes says nothing.
settings.register_profile("beside-others", deadline=None)
settings.load_profile("beside-others")

# A shell that starts tests in the background has Ctrl-C ignored there, and so in all they start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
