"""What may be read of a running loop from any thread: whether it gets on, what it counted, how its helpers are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parfocal.daemon.decide import Scoring
    from parfocal.daemon.guard import BeamLease
    from parfocal.daemon.record import Record
    from parfocal.daemon.requests import Requests
    from parfocal.daemon.summary import Counts


@dataclass(frozen=True)
class Vitals:
    """A loop's vital signs. All of it is single numbers, so that no lock is needed to read them.

    Parameters
    ----------
    lease, counts, scorer, record, requests
        The loop's own.
    """

    lease: BeamLease
    counts: Counts
    scorer: Scoring
    record: Record
    requests: Requests

    @property
    def turns(self) -> int:
        """How often the loop said that it gets on: once a frame, and while it waits for something with a deadline."""
        return self.lease.renewals

    @property
    def scorer_restarts(self) -> int:
        """How often the scorer was started again."""
        return int(getattr(self.scorer, "restarts", 0))

    @property
    def recorder_queue(self) -> int:
        """Frames that were accepted and are not on the disk yet."""
        recorder = self.record.recorder
        return 0 if recorder is None else max(recorder.accepted - recorder.written, 0)

    @property
    def recorder_written(self) -> int:
        """Frames on the disk."""
        return 0 if (recorder := self.record.recorder) is None else recorder.written

    @property
    def recorder_lost(self) -> int:
        """Frames there was no room for in the recorder's queue."""
        return 0 if (recorder := self.record.recorder) is None else recorder.dropped

    def answer(self, function: Callable[[], None]) -> bool:
        """Have the event loop's thread call a function as soon as it can; return whether there is such a thread."""
        return self.requests.tell(function)
