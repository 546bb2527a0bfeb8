"""The scorer's own process: waits for frames in shared memory, answers with assessments, dies with its parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from parfocal import ParfocalError
from parfocal.models import ModelSpec
from parfocal.models.panel import Panel
from parfocal.models.slot import FrameSlot
from parfocal.models.wire import encode_assessment, pack, unpack

BEAT_S = 0.2
"""How often an idle worker counts its heartbeat up."""


def main(connection: Connection, specs: Sequence[Mapping[str, Any]], slot_name: str, threads: int | None) -> None:
    """Run until the connection closes; entry point of the spawned process.

    Parameters
    ----------
    connection : Connection
        To the parent; msgpack both ways.
    specs : sequence of mapping
        `ModelSpec.to_json` of every model.
    slot_name : str
        The shared memory to look for frames in.
    threads : int, optional
        How many threads the arithmetic may use; None leaves it to the libraries.
    """
    _settle_in(threads)
    status = 0
    try:
        slot = FrameSlot.attach(slot_name)
        panel = Panel([ModelSpec.from_json(spec) for spec in specs])
        _limit_threads(threads)
        panel.warm_up()
        connection.send_bytes(pack({"ready": panel.describe()}))
        _serve(connection, panel, slot)
    except (EOFError, OSError):
        pass  # the parent is gone or has closed the connection: there is nobody to tell
    except Exception as error:  # noqa: BLE001 - the last thing this process can do is to say why it cannot start
        status = 1
        _farewell(connection, error)
    # Without finalizers: a model may still hold a view of the shared memory, and a library a thread that never ends.
    sys.stderr.flush()
    os._exit(status)


def _settle_in(threads: int | None) -> None:
    """Ctrl-C is the parent's to handle; stdout is the parent's to write on; the parent's end is ours too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)
    if threads is not None:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = str(threads)
    threading.Thread(target=_die_with_parent, name="die-with-parent", daemon=True).start()


def _limit_threads(threads: int | None) -> None:
    # Only if a model brought torch in: importing it for this alone would take seconds.
    if threads is not None and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _die_with_parent() -> None:
    """Leave at once when the parent has died, also out of the middle of a computation."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _farewell(connection: Connection, error: Exception) -> None:
    try:
        connection.send_bytes(pack(_error(error)))
    except OSError:
        traceback.print_exc()


def _serve(connection: Connection, panel: Panel, slot: FrameSlot) -> None:
    while True:
        slot.beat()
        if not connection.poll(BEAT_S):
            continue
        request = unpack(connection.recv_bytes())
        if request["op"] == "attach":
            larger = FrameSlot.attach(request["slot"])
            slot.close()
            slot = larger
            connection.send_bytes(pack({"attached": slot.name}))
        else:
            connection.send_bytes(pack(_answer(panel, slot, int(request["sequence"]))))


def _answer(panel: Panel, slot: FrameSlot, sequence: int) -> dict[str, Any]:
    try:
        pixels, pixel_um, found = slot.read()
        assessments = panel.assess(pixels, pixel_um)
        results = {name: encode_assessment(assessment) for name, assessment in assessments.items()}
    except Exception as error:  # noqa: BLE001 - reported to the parent, which raises it there; the worker lives on
        return {"sequence": sequence, **_error(error)}
    # The number read from the slot, not the one asked for: the parent checks that they are the same.
    return {"sequence": found, "results": results}


def _error(error: Exception) -> dict[str, Any]:
    kind = type(error).__name__
    message = str(error) if isinstance(error, ParfocalError) else f"{kind}: {error}"
    return {"error": {"kind": kind, "message": message, "traceback": traceback.format_exc()}}
