"""One acquisition from the seat: corrections before each event, frames after it, looks in the pause."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import structlog

from parfocal.daemon import compose
from parfocal.daemon.config import Config, ConfigError
from parfocal.daemon.decide import Scoring
from parfocal.daemon.dose import DoseLedger
from parfocal.daemon.guard import BeamLease, Guard, GuardState, Verdict
from parfocal.daemon.mda.corrections import DEADBAND_DOF, Correction, Corrections
from parfocal.daemon.mda.follower import Follower, Told
from parfocal.daemon.mda.ledger import Book, Seated, Tally, guarded, summary_of
from parfocal.daemon.mda.options import FOLLOW, AttachOptions, follow_options
from parfocal.daemon.mda.plan import Place, Plan
from parfocal.daemon.mda.quality import Bench
from parfocal.daemon.session import Session
from parfocal.daemon.summary import Summary
from parfocal.drivers.base import Frame, HardwareError
from parfocal.drivers.mm_frames import checked_pixels
from parfocal.drivers.mm_instrument import Instrument
from parfocal.drivers.mm_options import parse
from parfocal.policies import make_policy
from parfocal.policies.base import Change, Observation
from parfocal.policies.focus.follow import DEVICE, POSITION, REFERENCE, VISIT, FollowPolicy
from parfocal.policies.focus.memory import Forecast
from parfocal.simulator.clock import Clock

log = structlog.get_logger()

SETUP_S, SETUP_SHARE = 0.02, 0.3
"""First guess of the time from a correction to the exposure, and how fast it is learned better."""
WAY_S, WAY_KEPT = 0.05, 0.8
"""First guess of how long the stage takes for a correction, and how much of its longest is remembered at the next."""
LEAST_PAUSE_S, PAUSE_WAYS = 0.05, 2.0
"""A pause is used if it lasts this long, and so many times the stage's way beside."""


class SeatRun:
    """See the module. Every method is called in the runner's thread; the follower has its own.

    Parameters
    ----------
    core : CMMCorePlus
    config : Config
    options : AttachOptions
    scorer : Scoring
        Started.
    clock : Clock
    paused : callable
        Why nothing new is to be done, or an empty string.
    on_told, on_end : callable, optional
        Called with what came of every frame, and with the summary.
    """

    def __init__(
        self,
        core: Any,
        config: Config,
        options: AttachOptions,
        scorer: Scoring,
        clock: Clock,
        *,
        paused: Callable[[], str] = lambda: "",
        on_told: Callable[[Told], None] | None = None,
        on_end: Callable[[Summary], None] | None = None,
    ) -> None:
        self.core, self.config, self.options, self.clock = core, config, options, clock
        self.paused, self._listener, self._on_end = paused, on_told, on_end
        self.verdict: Verdict | None = None
        self.instrument = instrument = Instrument(core, parse(compose.driver_options(config), core), clock)
        given = follow_options(config, instrument.pixel_um)
        policy = make_policy(FOLLOW, given)
        if not isinstance(policy, FollowPolicy):
            raise ConfigError(f"{FOLLOW} is not parfocal's own")
        self.policy = policy
        self.tally = Tally()
        self._settings = instrument.read()
        dose = config.limits.dose
        self.dose = DoseLedger(dose.budget if dose else None, dose.unit if dose else "")
        self.dose.resolve_unit(instrument.parameters)
        self.lease = BeamLease(config.limits.beam_lease_s)
        self.guard = self._make_guard()
        self.plan = Plan(self._settings["z_um"], options.channels, options.planes)
        self.bench = Bench(config.quality if options.skip_bad else None)
        self._seated = Seated("micromanager", instrument.simulated, clock)
        self.session, self.book = self._open_book(scorer.describe(), given)
        self.follower = Follower(
            scorer, policy, on_told=self._told, on_missed=self._missed, timeout_s=config.scoring.timeout_ms / 1000.0
        )
        self.corrections = Corrections(policy, lambda: self.follower.outlook, paused)
        self._correction_um = 0.0
        self._sent_um = self._arrived_um = math.nan
        self._visited: dict[int, float] = {}
        self._looked: tuple[int, int] | None = None
        self._index = self._search = 0
        self._setup_s, self._way_s = SETUP_S, WAY_S
        self._now: Correction | None = None
        self._refusal = ""

    def _make_guard(self) -> Guard:
        parameters, limits, problems = guarded(self.config, self.instrument.parameters, self.options.max_correction_um)
        if problems:
            raise ConfigError(problems)
        guard = Guard(limits, parameters, self.lease)
        guard.begin(self.clock.now())
        self._parameters = parameters
        return guard

    def _open_book(self, models: Mapping[str, Any], policy: Mapping[str, Any]) -> tuple[Session, Book]:
        session = Session.create(self.config, about=self.about())
        book = Book(session, self._seated)
        settings = {**self._settings, "correction_um": 0.0}
        book.begin(self._parameters, self.guard.limits, settings, models, (FOLLOW, policy))
        return session, book

    def about(self) -> dict[str, Any]:
        """Return what session.json says of this acquisition."""
        return {
            "driver": self.config.microscope.driver,
            "microscope": "micromanager",
            "simulated": self._seated.simulated,
            "shadow": False,
            "beside": "an acquisition (MDA) of somebody else's",
            "models": [spec.to_json() for spec in compose.model_specs(self.config)],
            "policy": {"name": FOLLOW},
            "optics": compose.optics_options(self.config) or "not known",
        }

    @property
    def correction(self) -> Correction | None:
        """What is in force for the event at hand."""
        return self._now

    @property
    def settings(self) -> dict[str, float]:
        """The parameters as last read back; whoever sets one writes it down here."""
        return self._settings

    @property
    def refusal(self) -> str:
        """Why the last correction was refused; empty if it was not."""
        return self._refusal

    def moved_by_device(self, before_um: float) -> None:
        """Take how far the microscope's own autofocus went for what has become of the focus."""
        z_um, place = self.instrument.read_z_um(), self._now.place if self._now is not None else None
        if place is None or not math.isfinite(z_um - before_um):
            return
        self._settings["z_um"] = z_um
        um = z_um - place.planned_um
        self.guard.commit("correction_um", self._correction_um, um, self.clock.now())
        self._correction_um = um
        self.corrections.hold(place.position, um)
        self.corrections.anew()
        settings = {
            **self._settings,
            POSITION: float(place.position),
            VISIT: float(place.visit),
            REFERENCE: place.reference_um,
            DEVICE: 1.0,
        }
        told = Observation(self._index, settings, self.clock.now(), self.dose.spent, {})
        self.follower.tell(told, self.book.observed)
        self._index += 1

    def stand(self) -> None:
        """Take the place where the stage is for the plan's, outside any acquisition."""
        z_um = self._settings["z_um"] = self.instrument.read_z_um()
        self.lease.renew(self.clock.now())
        self._now = Correction(Place(0, 1, z_um, z_um, True, 0.0), 0.0, z_um, math.inf, "", False)

    # -- before an event ----------------------------------------------------------------------------------------

    def correct(self, event: Any, exposure_ms: float | None) -> Correction:
        """Decide on the correction of an event; what is accepted is written down, and may be sent."""
        self.tally.events += 1
        place = self.plan.place(event)
        wish = self.corrections.wish(place, self._shown_s(exposure_ms))
        self.tally.held += wish.held
        forecast, held = wish.forecast, self.corrections.held(place.position)
        for um, why in ((wish.um, wish.reason), (held, f"held: the correction wanted was refused; {wish.reason}")):
            if um == 0.0 and self._correction_um == 0.0:
                break  # nothing of ours: the plan's own z
            target = place.planned_um + um
            stands = target == self._sent_um
            if self._allowed(place, um, why, self._facts(place, forecast), send=not stands, wait=False):
                self.tally.corrected += 1
                return self._in_force(Correction(place, um, target, forecast.sd_um, why, True, stands))
            if um == held:
                break
        none = "nothing is known yet" if not self._refusal else f"the plan's own z: {self._refusal}"
        return self._in_force(Correction(place, 0.0, place.planned_um, forecast.sd_um, none, False))

    def _in_force(self, correction: Correction) -> Correction:
        self._now = correction
        return correction

    def _shown_s(self, exposure_ms: float | None, start_s: float | None = None) -> float:
        """When the middle of an exposure will be, whose event begins at `start_s`, or now."""
        begins_s = self.clock.now() if start_s is None else start_s
        return begins_s + self._setup_s + 0.5e-3 * (exposure_ms or self._settings["exposure_ms"])

    def ahead(self, event: Any, start_in_s: float) -> bool:
        """Have the stage go in the pause before an event, to where that will want it; whether it went.

        Only where nothing but the correction changes: the plan's own moves are the plan's, and wait for their event.
        What is learned meanwhile, and the check that the stage is there, come with the event.

        Raises
        ------
        HardwareError
            The stage did not take the command, or did not arrive.
        """
        now, began_s = self._now, self.clock.now()
        if now is None or self._refusal or self.follower.given_up:
            return False
        if start_in_s < LEAST_PAUSE_S + PAUSE_WAYS * self._way_s:
            return False
        place = self.plan.place(event)
        if (place.position, place.planned_um) != (now.place.position, now.place.planned_um):
            return False
        wish = self.corrections.wish(place, self._shown_s(event.exposure, began_s + start_in_s), ahead=True)
        if wish.held or place.planned_um + wish.um == self._sent_um or wish.um == self._correction_um == 0.0:
            return False
        why = f"ahead of the next event: {wish.reason}"
        if not self._allowed(place, wish.um, why, self._facts(place, wish.forecast)):
            return False
        self._go_to(place.planned_um + wish.um)
        return True

    def _facts(self, place: Place, forecast: Forecast) -> dict[str, float]:
        return {
            "focus_z_um": place.reference_um + forecast.focus_um,
            "defocus_sd_um": forecast.sd_um,
            "drift_um_per_min": 60.0 * forecast.rate_um_per_s,
            "planned_z_um": place.planned_um,
            "position": float(place.position),
            "visit": float(place.visit),
        }

    def _allowed(
        self, place: Place, um: float, reason: str, detail: Mapping[str, float], *, send: bool = True, wait: bool = True
    ) -> bool:
        """Ask the guard; write down what it says, and the command before it is sent (and `wait` for the disk)."""
        target = place.planned_um + um
        action = Change({"correction_um": um, "z_um": target}, reason, detail)
        verdict = self._check(action)
        self.book.judged(None, action, verdict)
        if not verdict.accepted:
            self._refuse(verdict)
            return False
        if send:
            self.book.command(None, verdict.settings, wait=wait)
        self.guard.commit("correction_um", self._correction_um, um, self.clock.now())
        self._correction_um, self._refusal = um, ""
        self.corrections.hold(place.position, um)
        return True

    def _check(self, action: Change) -> Verdict:
        now = {**self._settings, "correction_um": self._correction_um}
        self.verdict = self.guard.check(action, GuardState(now, self.clock.now()))
        return self.verdict

    def _refuse(self, verdict: Verdict) -> None:
        self._refusal = f"refused: {verdict.reason}"
        self.tally.refused += 1
        log.warning("mda.refused", reason=verdict.reason)

    def place(self, correction: Correction, began_s: float) -> None:
        """Put the stage where the correction leads, wait for it there, and read it back; else only read it.

        Raises
        ------
        HardwareError
            The stage did not take the command, or did not arrive.
        """
        if not correction.sent:
            self._settings["z_um"] = self.instrument.read_z_um()
        elif not (correction.stands and self._still_there(correction)):
            self._go_to(correction.target_um)
        self._setup_s += SETUP_SHARE * (self.clock.now() - began_s - self._setup_s)

    def _still_there(self, correction: Correction) -> bool:
        """Whether the stage is where it arrived; if not, what is sent now is written down."""
        asked, target_um = time.perf_counter(), correction.target_um
        z_um = self._settings["z_um"] = self.instrument.read_z_um()
        if abs(z_um - self._arrived_um) <= DEADBAND_DOF * self.policy.dof:
            self.book.verified("z_um", target_um, z_um, self.clock.now(), asked)
            return True
        self.book.command(None, {"correction_um": correction.um, "z_um": target_um}, wait=False)
        return False

    def _go_to(self, target_um: float) -> None:
        sent, began_s = time.perf_counter(), self.clock.now()
        self._sent_um = math.nan
        z_um = self._settings["z_um"] = self.instrument.set("z_um", target_um)
        self._sent_um, self._arrived_um = target_um, z_um
        self._way_s = max(self.clock.now() - began_s, WAY_KEPT * self._way_s)
        self.book.readback("z_um", target_um, z_um, self.clock.now(), sent)

    # -- the frames of an event ---------------------------------------------------------------------------------

    def took(self, image: Any, event: Any, meta: Mapping[str, Any], planned_um: float | None = None) -> None:
        """Count a frame of the acquisition, and hand it to the follower if it is one that is looked at."""
        correction, end_s = self._now, self.clock.now()
        if correction is None:
            return
        self.tally.frames += 1
        exposure_ms = float(meta.get("exposure_ms", self._settings["exposure_ms"]))
        self._settings["exposure_ms"] = exposure_ms
        dose = self.dose.add(self._settings, exposure_ms)
        place = self.plan.place(event) if planned_um is not None else correction.place
        if not place.scored:
            return
        z_um = self._settings["z_um"] if planned_um is None else planned_um + correction.um
        frame = self._frame(np.array(image), place, z_um, end_s - exposure_ms / 1000.0, end_s)
        self.follower.offer(frame, dose)

    def _frame(self, pixels: Any, place: Place, z_um: float, start_s: float, end_s: float, **more: float) -> Frame:
        index, self._index = self._index, self._index + 1
        settings = {
            **self._settings,
            "z_um": z_um,
            POSITION: float(place.position),
            VISIT: float(place.visit),
            REFERENCE: place.reference_um + place.chromatic_um,
            **more,
        }
        instrument = self.instrument
        return Frame(
            pixels=checked_pixels(instrument.camera, pixels, ()),
            index=index,
            settings=settings,
            start_s=start_s,
            end_s=end_s,
            pixel_um=instrument.pixel_um,
            saturation_counts=instrument.saturation_counts,
            simulated=instrument.simulated,
        )

    def _told(self, told: Told) -> None:
        self.tally.scored += told.assessments is not None
        self.book.told(told)
        if told.assessments is not None:
            self.bench.judge(int(told.frame.settings[POSITION]), told.assessments)
        if self._listener is not None:
            self._listener(told)

    def _missed(self, frame: Frame, dose: float) -> None:
        self.tally.dropped += 1
        self.book.missed(frame, dose)

    def bad(self, event: Any) -> str:
        """Why the event that begins now is to be left out; empty if it is not."""
        self.lease.renew(self.clock.now())
        place = self.plan.place(event)
        return "" if place.scored else self.bench.bad(place.position)

    # -- extra looks --------------------------------------------------------------------------------------------

    def look_about(self, event: Any) -> int:
        """Take two frames beside the focus if it is not known well enough for the next visit; return how many."""
        correction = self._now
        if correction is None or not correction.place.scored or self.options.looks == "never" or self.paused():
            return 0
        place, step = correction.place, self.policy.options.look_dof * self.policy.dof
        now_s = self.clock.now()
        last_s = self._visited.get(place.position, now_s)
        self._visited[place.position] = now_s
        visit = (place.position, place.visit)
        if self._looked == visit or self.plan.span_um(event) >= step or self.follower.given_up:
            return 0
        memory = self.follower.outlook.memory
        if not self.policy.wants_looks(memory.at(place.position, now_s + (now_s - last_s))):
            return 0
        self._looked = visit
        try:
            return self._look_from(place, correction, step)
        except HardwareError as error:  # a look more or less: what is known goes on to be used
            log.warning("mda.look_failed", error=str(error))
            self.book.error(error)
            return 0

    def _look_from(self, place: Place, correction: Correction, step: float) -> int:
        before_um, taken = self._settings["z_um"], 0
        at = replace(place, planned_um=place.reference_um + place.chromatic_um)
        outlook = self.follower.outlook
        forecast = outlook.memory.at(place.position, self.clock.now() + self._setup_s)
        about_um = outlook.guesses.get(place.position, forecast.focus_um)
        known = f"known to ±{forecast.sd_um:.2f} um" if about_um == forecast.focus_um else "guessed"
        side = 1.0 if before_um >= at.planned_um + about_um else -1.0
        try:
            for way in (side * step, -side * step):
                if self.dose.exhausted:
                    self._refusal = "no extra look: the dose budget is spent"
                    break
                word = "above" if way > 0 else "below"
                why = f"look {abs(way):.2f} um {word} the focus, {known}"
                if not self.move(at, about_um + way, why, self._facts(at, forecast)):
                    break
                self.snap(at)
                taken += 1
        finally:
            back = replace(place, planned_um=correction.target_um - correction.um)
            if taken and self.move(back, correction.um, "back after the looks", {}):
                self.corrections.hold(place.position, correction.um)
        self.tally.looks += taken
        return taken

    def move(self, place: Place, um: float, reason: str, detail: Mapping[str, float]) -> bool:
        """Move the stage by ourselves, through the guard, and read it back."""
        held = self.corrections.remembered()
        if not self._allowed(place, um, reason, detail):
            return False
        self.corrections.remember(held)  # a look is no correction
        self._go_to(place.planned_um + um)
        return True

    def snap(self, place: Place, **more: float) -> Frame:
        """Expose one frame of our own, and hand it to the follower unless it belongs to a search.

        Raises
        ------
        HardwareError
            The camera gave none.
        """
        start_s = self.clock.now()
        try:
            self.core.snapImage()
            pixels = np.array(self.core.getImage())
        except Exception as error:
            raise HardwareError(f"camera {self.instrument.camera!r}: {error}") from error
        end_s = self.clock.now()
        self.tally.frames += 1
        exposure_ms = self.instrument.read_exposure_ms()
        self._settings["exposure_ms"] = exposure_ms
        dose = self.dose.add(self._settings, exposure_ms)
        start_s = max(start_s, end_s - exposure_ms / 1000.0)
        frame = self._frame(pixels, place, self._settings["z_um"], start_s, end_s, **more)
        if not more:
            self.follower.offer(frame, dose)
        return frame

    def begin_search(self) -> tuple[Place, int] | None:
        """Make ready for a search where the stage is; None if no event was set up."""
        if self._now is None:
            return None
        self._search += 1
        self.tally.searches += 1
        self.follower.drain(self.config.scoring.timeout_ms / 1000.0)
        place = self._now.place
        return replace(place, planned_um=place.reference_um + place.chromatic_um), self._search

    def end_search(self) -> None:
        """Let what was found count at once, in the visit at hand."""
        self.corrections.anew()

    # -- the end ------------------------------------------------------------------------------------------------

    def end(self, error: str = "") -> None:
        """Score what waits, write the summary, and close the session."""
        self.follower.drain(min(2.0, self.config.scoring.timeout_ms / 1000.0))
        self.follower.close()
        forecast = self.follower.outlook.memory.at(0, self.clock.now())
        reference = self._now.place.reference_um if self._now is not None else math.nan
        settings = {
            **self._settings,
            "correction_um": self._correction_um,
            "focus_z_um": reference + forecast.focus_um,
            "defocus_sd_um": forecast.sd_um,
        }
        summary = summary_of(
            self.config, self.session, self._seated, self.tally, self.guard, self.dose, settings,
            error or self.follower.given_up,
        )  # fmt: skip
        if self._on_end is not None:
            self._on_end(summary)  # also where the disk is full
        self.book.end(summary)
