"""Settings of every test: arithmetic on one thread, so that a busy machine slows tests down and does not stop them."""

from __future__ import annotations

import os
import signal

# Before torch is imported anywhere: threads of one operation wait for each other, for a time slice each if the cores
# are taken. Processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts a job in the background, or nohup, has it ignore these, and what it starts inherits that; tests
# send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
