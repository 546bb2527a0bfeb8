"""The session's memory as the loop sees it: every event in the journal, the right frames in the recorder."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from parfocal import ParfocalError
from parfocal.daemon.config_models import Limit
from parfocal.daemon.deliberate import Suggested
from parfocal.daemon.guard import Verdict
from parfocal.daemon.owner import Done, Taken
from parfocal.daemon.recorder import Recorder
from parfocal.daemon.records import (
    DecisionDigest,
    Grids,
    action_fields,
    assessment_fields,
    frame_fields,
    pack_array,
    verdict_fields,
)
from parfocal.daemon.session import Session, check_room, check_still_room
from parfocal.daemon.states import State
from parfocal.daemon.summary import Summary
from parfocal.drivers.base import Frame, Microscope, Parameter
from parfocal.models.base import Assessment
from parfocal.policies.base import Action, Observation

LOOK_EVERY_S = 2.0
"""How often the room on the disk is looked at while a session runs."""


class Record:
    """Writes a session down.

    What a frame brings (its facts, assessments, action, verdict) is noted in order and written by `flush`, which the
    loop calls while it waits anyway; whatever else is written flushes first, a command above all: it is not sent before
    all that led to it is on the disk. What is noted is immutable, so that it does not matter when it is put into words.

    Parameters
    ----------
    session : Session
        Its configuration says how many frames to keep: ``session.record``.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._journal = session.journal
        self._grids = Grids()
        self._keep = session.config.session.record
        self._recorder: Recorder | None = None
        self._stored: dict[int, int] = {}
        self._headed = False
        self._roomy = False
        self._looked_s = time.monotonic()
        self._digest = DecisionDigest()
        self._noted: deque[Callable[[], None]] = deque()
        if self._keep != "none":
            self._recorder = Recorder(session.folder / "frames.ome.zarr")

    @property
    def recorder(self) -> Recorder | None:
        """Where frames go, if any are kept."""
        return self._recorder

    def header(
        self,
        microscope: Microscope,
        parameters: Mapping[str, Parameter],
        limits: Mapping[str, Limit],
        shadow: bool,
        settings: Mapping[str, float],
        models: Mapping[str, Any],
    ) -> None:
        """Write the journal's first record: what a replay needs to know of the microscope and the models."""
        self._session.note({"microscope": microscope.name, "simulated": microscope.simulated})
        self._head(
            microscope=microscope.name,
            simulated=microscope.simulated,
            shadow=shadow,
            clock_s=microscope.clock.now(),
            parameters={name: asdict(parameter) for name, parameter in parameters.items()},
            limits={name: limit.model_dump(exclude_none=True) for name, limit in limits.items()},
            settings=settings,
            models=models,
        )
        self._journal.sync()

    def flush(self) -> None:
        """Write what was noted; raises `JournalError`, and then drops the rest: nothing may follow a gap."""
        try:
            while self._noted:
                self._noted.popleft()()
        finally:
            self._noted.clear()

    def _head(self, **fields: Any) -> None:
        self._journal.append(
            "session",
            session=self._session.folder.name,
            started_utc=self._session.started.isoformat(),
            driver=self._session.config.microscope.driver,
            **fields,
        )
        self._headed = True

    def offer_any(self, frame: Frame) -> int | None:
        """Keep this frame if all are kept; called in the microscope's thread."""
        if self._keep != "all" or self._recorder is None:
            return None
        if not self._roomy:
            self._check_room(frame)
            self._roomy = True
        return self._recorder.offer(frame)

    def frame(self, taken: Taken, unfit: str) -> None:
        """Note a frame's facts; `unfit` is ``missed``, ``stale``, ``doubtful`` or empty."""
        self._noted.append(partial(self._frame, taken, unfit))

    def _frame(self, taken: Taken, unfit: str) -> None:
        fields = frame_fields(taken.frame, taken.dose)
        if unfit:
            fields["unfit"] = unfit
        if taken.stored is not None:
            fields["stored"] = taken.stored
        self._journal.append("frame", **fields)
        if self._keep == "decisions" and not self._stored:
            self._store(taken.frame)

    def observation(self, observation: Observation) -> None:
        """Note what the policy was told that no frame said, such as where the microscope's own autofocus went."""
        self._noted.append(partial(self._observation, observation))

    def _observation(self, observation: Observation) -> None:
        settings = {name: float(value) for name, value in observation.settings.items()}
        self._journal.append(
            "observation", index=observation.index, settings=settings, time_s=observation.time_s, dose=observation.dose
        )

    def assessments(self, index: int, assessments: Mapping[str, Assessment]) -> None:
        """Note what the models said, bit for bit as the policy was told."""
        self._noted.append(partial(self._assessments, index, assessments))

    def _assessments(self, index: int, assessments: Mapping[str, Assessment]) -> None:
        self._digest.told(index)
        for assessment in assessments.values():
            name = None
            if assessment.distribution is not None:
                grid = assessment.distribution.defocus_um
                name, new = self._grids.name(grid)
                if new:
                    self._journal.append("grid", grid=name, values=pack_array(grid))
            self._journal.append("assessment", index=index, **assessment_fields(assessment, name))

    def policy(self, name: str, options: Mapping[str, Any], continues: bool = False) -> None:
        """Write which policy decides from now on, with every option it was made with.

        `continues`: it went on from the checkpoint of the one before; else it begins anew.
        """
        self.flush()
        more = {"continues": True} if continues else {}
        self._journal.append("policy", policy=name, options=options, **more)

    def suggestion(self, index: int, suggested: Suggested) -> None:
        """Note what the policy accepted, or why it fell back: a replay is given it, and decides the same."""
        self._noted.append(partial(self._suggestion, index, suggested))

    def _suggestion(self, index: int, suggested: Suggested) -> None:
        self._journal.append("suggestion", index=index, **asdict(suggested))

    def action(self, index: int | None, action: Action) -> None:
        """Note an action, before anybody judges it."""
        self._noted.append(partial(self._action, index, action))

    def _action(self, index: int | None, action: Action) -> None:
        fields = action_fields(action)
        self._digest.action(index, fields)
        self._journal.append("action", index=index, **fields)

    def verdict(self, index: int | None, verdict: Verdict, keep: Taken | None = None) -> None:
        """Note the guard's verdict; `keep` is the frame to record with it."""
        self._noted.append(partial(self._verdict, index, verdict, keep))

    def _verdict(self, index: int | None, verdict: Verdict, keep: Taken | None) -> None:
        refusal = verdict.refusal.name.lower() if verdict.refusal else None
        fields = verdict_fields(verdict.accepted, verdict.reason, refusal)
        self._digest.verdict(index, fields)
        when = {"time_s": verdict.time_s} if math.isfinite(verdict.time_s) else {}
        self._journal.append("verdict", index=index, **fields, **when)
        if keep is not None and self._keep == "decisions":
            self._store(keep.frame)

    def command(self, index: int | None, settings: Mapping[str, float]) -> None:
        """Write what is about to be sent, and wait until the disk has it and all that was noted before."""
        self.flush()
        self._journal.append("command", index=index, settings=settings)
        self._journal.sync()

    def readback(self, name: str, value: float, done: Done) -> None:
        """Write what the device said after a command."""
        self._journal.append(
            "readback", parameter=name, commanded=value, readback=done.readback, settled_s=done.settled_s
        )

    def state(self, old: State, new: State, reason: str, time_s: float) -> None:
        """Write a change of state."""
        self.flush()
        if not self._headed:
            self._head(microscope=None, simulated=None)  # it ended before the microscope was open
        self._journal.append("state", old=old.value, new=new.value, reason=reason, time_s=time_s)

    def error(self, error: BaseException, time_s: float) -> None:
        """Write what went wrong."""
        self.flush()
        if not self._headed:
            self._head(microscope=None, simulated=None)
        self._journal.append("error", error=type(error).__name__, message=str(error), time_s=time_s)

    def check(self) -> None:
        """Raise `RecorderError` if frames could not be written, `SessionError` before the disk is full.

        What is left then is enough to write down how the session ended.
        """
        if self._recorder is not None:
            self._recorder.check()
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOK_EVERY_S:
            self._looked_s = now_s
            check_still_room(self._session.folder)

    def finish(self, last: Taken | None) -> None:
        """Keep the last frame and wait until every frame is written."""
        self.flush()
        if self._recorder is None:
            return
        if last is not None and self._keep == "decisions":
            self._store(last.frame)
        self._recorder.close()

    def end(self, summary: Summary) -> None:
        """Write the last record and the summary, and close the journal."""
        dropped = self._recorder.dropped if self._recorder is not None else 0
        content = summary.to_json() | {"error": summary.error, "exit_code": summary.exit_code}
        content |= {"decisions": self._digest.decisions, "decisions_sha256": self._digest.sha256}
        try:
            self._journal.append("end", outcome=summary.outcome, unrecorded=dropped, summary=content)
        except ParfocalError:
            self._session.journal.close()
            raise
        self._session.finish(content)

    def _store(self, frame: Frame) -> None:
        if self._recorder is None or frame.index in self._stored:
            return
        stored = self._recorder.offer(frame)
        if stored is None:
            self._journal.append("stored", index=frame.index, stored=None, reason="no room in the recorder's queue")
            return
        self._stored[frame.index] = stored
        self._journal.append("stored", index=frame.index, stored=stored)

    def _check_room(self, frame: Frame) -> None:
        """Refuse at the first frame what the disk has no room for; a session without an end asks for an hour."""
        section = self._session.config.session
        interval_s = max(
            (self._session.config.microscope.interval_ms or 0.0) / 1000.0, frame.end_s - frame.start_s, 1e-3
        )
        frames = section.max_frames or int((section.max_seconds or 3600.0) / interval_s) + 1
        check_room(self._session.folder, frames * frame.pixels.nbytes)
