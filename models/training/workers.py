"""Worker processes of a training, which do not outlive it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait


def worker_pool(workers: int, *, threads: int | None = None) -> ProcessPoolExecutor:
    """Spawned processes that end with the one that made them, also where that is killed and cannot say so.

    Parameters
    ----------
    workers : int
    threads : int, optional
        How many torch may use in each of them.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(threads,))


def _begin(threads: int | None) -> None:
    threading.Thread(target=_end_with_the_parent, name="parent-watch", daemon=True).start()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)  # whoever waited for the results is gone
