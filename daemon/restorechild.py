"""The restorer's own process: frames in through shared memory, small computed images out, and nobody waits for it.

Not the scorer's process: restoring takes what time it takes, and what it computes is for people to look at.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from parfocal import ParfocalError
from parfocal.models.base import ScorerError
from parfocal.models.slot import FrameSlot
from parfocal.models.wire import pack, unpack

if TYPE_CHECKING:
    from parfocal.models.restore.base import Restoration, Restorer

MAKER = "parfocal.models.restore:make_restorer"
NICENESS = 10
JOIN_S = 2.0
BELOW_NORMAL = 0x4000


class RestorerLostError(ParfocalError):
    """The restorer's process died, stalled, or failed in a way that is nobody's picture's fault."""


class RestorerUnusableError(ParfocalError):
    """The restorer cannot be made: starting its process again would be of no use."""


class FrameRefusedError(ParfocalError):
    """A frame that cannot be restored; the process is still there."""


@dataclass(frozen=True)
class Method:
    """Which restorer.

    Parameters
    ----------
    name : str
        Of the method.
    options : mapping
        Plain JSON, for the method.
    maker : str
        ``module:function`` that makes a `Restorer` of name and options.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    maker: str = MAKER


class RestoreChild:
    """The parent's handle on the process. Methods block and are called from one thread; `kill` from any.

    Parameters
    ----------
    method : Method
    pixel_bytes : int
        Of the largest frame expected; the shared memory grows if a larger one comes.
    """

    def __init__(self, method: Method, pixel_bytes: int = 1) -> None:
        context = multiprocessing.get_context("spawn")
        self._slot, self._sequence, self._late = FrameSlot.create(pixel_bytes), 0, False
        self._connection, theirs = context.Pipe(duplex=True)
        arguments = (theirs, method.maker, method.name, dict(method.options), self._slot.name)
        self._process = context.Process(target=main, args=arguments, name="parfocal-restorer", daemon=True)
        try:
            with _interrupts_blocked():
                self._process.start()
        except BaseException:
            self._connection.close()
            self._slot.close()
            raise
        finally:
            theirs.close()  # else its death would not be the end of the connection
        self._end = weakref.finalize(self, _dispose, self._process, self._connection)

    @property
    def pid(self) -> int | None:
        """Process id."""
        return self._process.pid

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until the method can be used; raises `RestorerUnusableError` or `RestorerLostError`."""
        with self._deadline(timeout_s):
            reply = self._receive("did not start", timeout_s)
        if "error" in reply:
            kind = RestorerUnusableError if reply["known"] else RestorerLostError
            raise kind(str(reply["error"]))

    def restore(
        self, pixels: NDArray[Any], pixel_um: float, told: Mapping[str, Any], timeout_s: float
    ) -> dict[str, Any]:
        """Have one frame (height, width) restored.

        Parameters
        ----------
        pixels, pixel_um
            The frame's own.
        told : mapping
            ``optics`` (plain JSON), ``defocus_um``, ``sd_um``, ``longest_px`` of the image wanted (0: none).
        timeout_s : float
            Then the process is killed.

        Returns
        -------
        dict
            ``verdict``, ``reason``, ``image`` (as `parfocal.daemon.service.previews.preview` makes it, or `None`),
            ``refused`` (``rows``, ``columns``, ``cell_px``, ``cells``: bytes, row by row, 1 where refused).

        Raises
        ------
        ImageError, FrameRefusedError
            The frame is none that can be restored.
        RestorerLostError
            The process is gone, or its method failed; it is of no further use.
        """
        with self._deadline(timeout_s):
            if pixels.nbytes > self._slot.capacity:
                self._grow(pixels.nbytes, timeout_s)
            self._sequence += 1
            self._slot.write(pixels, pixel_um, self._sequence)
            self._send({"op": "restore", "sequence": self._sequence, **told})
            reply = self._receive("did not answer", timeout_s)
        if "error" in reply:
            kind = FrameRefusedError if reply["known"] else RestorerLostError
            raise kind(str(reply["error"]))
        if reply.get("sequence") != self._sequence:
            raise RestorerLostError(f"the restorer answered frame {reply.get('sequence')} instead of {self._sequence}")
        return reply

    def kill(self) -> None:
        """End the process at once: there is nothing in it worth a farewell."""
        with contextlib.suppress(ValueError):  # disposed of already
            self._process.kill()

    def close(self) -> None:
        """End the process and remove the shared memory. Idempotent."""
        self._end()
        self._slot.close()

    def _grow(self, pixel_bytes: int, timeout_s: float) -> None:
        larger = FrameSlot.create(pixel_bytes)
        try:
            self._send({"op": "attach", "slot": larger.name})
            reply = self._receive("did not take larger frames", timeout_s)
            if "error" in reply:
                raise RestorerLostError(str(reply["error"]))
        except BaseException:
            larger.close()
            raise
        self._slot.close()
        self._slot = larger

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            self._connection.send_bytes(pack(dict(message)))
        except OSError as error:
            raise self._lost("did not listen", 0.0) from error

    def _receive(self, failure: str, timeout_s: float) -> dict[str, Any]:
        try:
            reply: dict[str, Any] = unpack(self._connection.recv_bytes())
        except (EOFError, OSError, ScorerError) as error:
            raise self._lost(failure, timeout_s) from error
        return reply

    def _lost(self, failure: str, timeout_s: float) -> RestorerLostError:
        if self._late:
            return RestorerLostError(f"the restorer's process {failure} within {timeout_s:g} s and was killed")
        self._process.join(JOIN_S)
        code = self._process.exitcode
        how = f"was killed by signal {signal.Signals(-code).name}" if code is not None and code < 0 else "died"
        return RestorerLostError(f"the restorer's process {how}")

    @contextlib.contextmanager
    def _deadline(self, timeout_s: float) -> Iterator[None]:
        """Kill the process when time is up: that ends every wait, also one for the rest of half an answer."""

        def late() -> None:
            self._late = True
            self.kill()

        timer = threading.Timer(timeout_s, late)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Let the child be born with SIGINT blocked: a Ctrl-C during its start is for the parent alone."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _dispose(process: BaseProcess, connection: Connection) -> None:
    process.kill()
    process.join(JOIN_S)
    connection.close()
    if not process.is_alive():
        process.close()


# -- in the process itself ----------------------------------------------------------------------------------------


def main(connection: Connection, maker: str, method: str, options: Mapping[str, Any], slot_name: str) -> None:
    """Run until the connection closes; entry point of the spawned process."""
    _settle_in()
    status = 0
    try:
        slot = FrameSlot.attach(slot_name)
        module, _, function = maker.partition(":")
        restorer: Restorer = getattr(importlib.import_module(module), function)(method, dict(options))
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        connection.send_bytes(pack({"ready": restorer.name}))
        _serve(connection, restorer, slot)
    except (EOFError, OSError):
        pass  # the parent is gone or has closed the connection: there is nobody to tell
    except Exception as error:  # noqa: BLE001 - the last thing this process can do is to say why it cannot start
        status = 1
        with contextlib.suppress(OSError):
            connection.send_bytes(pack(_error(error)))
    sys.stderr.flush()
    os._exit(status)


def _settle_in() -> None:
    """Ctrl-C and stdout are the parent's, its end is ours too, and everybody else comes first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.windll.kernel32
        kernel.SetPriorityClass(kernel.GetCurrentProcess(), BELOW_NORMAL)
    else:
        os.nice(NICENESS)
    threading.Thread(target=_die_with_parent, name="die-with-parent", daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _serve(connection: Connection, restorer: Restorer, slot: FrameSlot) -> None:
    while True:
        request = unpack(connection.recv_bytes())
        if request["op"] == "attach":
            larger = FrameSlot.attach(request["slot"])
            slot.close()
            slot = larger
            connection.send_bytes(pack({"attached": slot.name}))
        else:
            connection.send_bytes(pack(_answer(restorer, slot, request)))


def _answer(restorer: Restorer, slot: FrameSlot, request: Mapping[str, Any]) -> dict[str, Any]:
    from parfocal.models.restore.base import Blur
    from parfocal.simulator.optics import Optics

    try:
        pixels, _, sequence = slot.read()
        blur = Blur(Optics.from_options(request["optics"]), request["defocus_um"], request["sd_um"])
        # A copy: what a restorer keeps of it must not change under it when the next frame is written.
        made = restorer.restore(pixels.copy(), blur)
        return {"sequence": sequence, **small(made, request["longest_px"])}
    except Exception as error:  # noqa: BLE001 - reported to the parent, which decides what follows
        return _error(error)


def small(made: Restoration, longest_px: int) -> dict[str, Any]:
    """Return a restoration as it crosses to the parent: verdict and reason, a small grey image, the refused squares."""
    from parfocal.daemon.service.previews import preview
    from parfocal.models.restore.base import CELL_PX

    rows, columns = (int(side) for side in made.refused.shape)
    return {
        "verdict": str(made.verdict),
        "reason": made.reason,
        "image": preview(made.pixels, None, longest_px) if longest_px else None,
        "refused": {
            "rows": rows,
            "columns": columns,
            "cell_px": CELL_PX,
            "cells": np.ascontiguousarray(made.refused, dtype=np.uint8).tobytes(),
        },
    }


def _error(error: Exception) -> dict[str, Any]:
    known = isinstance(error, ParfocalError)
    return {"error": str(error) if known else f"{type(error).__name__}: {error}", "known": known}
