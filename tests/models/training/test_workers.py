from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from parfocal.models.training.workers import worker_pool

PARENT = """
import os, sys, time
from parfocal.models.training.workers import worker_pool

if __name__ == "__main__":
    pool = worker_pool(1)
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_work_is_done_in_another_process_with_as_many_threads_as_told() -> None:
    import torch

    with worker_pool(1, threads=1) as pool:
        assert pool.submit(os.getpid).result() != os.getpid()
        assert pool.submit(torch.get_num_threads).result() == 1


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc whether a process of another is alive")
def test_workers_do_not_outlive_a_training_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert alive(worker)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 60
    while alive(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(worker)
