"""What changes while a session runs, and the summary that is made of it at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from parfocal import ParfocalError
from parfocal.daemon.decisions import side_known
from parfocal.daemon.owner import Taken
from parfocal.daemon.stedtrials import StedTrials
from parfocal.daemon.summary import Counts, Summary, percentile
from parfocal.policies.base import Action

if TYPE_CHECKING:
    from parfocal.daemon.config import Config
    from parfocal.daemon.dose import DoseLedger
    from parfocal.daemon.session import Session
    from parfocal.drivers.base import Microscope, Parameter


@dataclass
class Run:
    """What changes while a session runs."""

    settings: dict[str, float] = field(default_factory=dict)
    began_s: float = 0.0
    outcome: str = ""
    error: BaseException | None = None
    last: Taken | None = None
    last_action: Action | None = None
    focused: int = 0
    latency_ms: float = float("nan")
    notes: str = ""


def summary_of(
    run: Run, counts: Counts, ledger: DoseLedger, *, session: str, driver: str, simulated: bool, travel_um: float
) -> Summary:
    """Return what a session amounts to."""
    defocus_um, sd_um, truth_um = final_defocus(run)
    return Summary(
        session=session,
        driver=driver,
        simulated=simulated,
        outcome=run.outcome or "failed",
        frames=counts.frames,
        scored=counts.scored,
        stale=counts.stale,
        dropped=counts.dropped,
        actions=counts.actions,
        refused=counts.refused,
        frames_to_focus=counts.frames_to_focus,
        travel_um=travel_um,
        dose=ledger.spent,
        dose_unit=ledger.unit,
        settings=dict(run.settings),
        defocus_um=defocus_um,
        defocus_sd_um=sd_um,
        quality=counts.quality.value,
        gate=counts.quality.to_json(),
        truth_defocus_um=truth_um,
        latency_p50_ms=percentile(counts.latencies_ms, 50),
        latency_p99_ms=percentile(counts.latencies_ms, 99),
        recommendation=recommendation_of(run.last_action),
        error=str(run.error) if run.error is not None else "",
        exit_code=run.error.exit_code if isinstance(run.error, ParfocalError) else (1 if run.error else 0),
    )


def recommendation_of(action: Action | None) -> dict[str, Any] | None:
    """Return the settings that the policy recommended last, and why it ended there; None where it looked for none."""
    trials = StedTrials()
    if action is None or not ("images" in action.detail and "field" in action.detail):  # of a policy that makes trials
        return None
    trials.take(action.detail)
    found = trials.recommended
    return {
        "settings": dict(found.settings),
        "utility": found.utility if math.isfinite(found.utility) else None,
        "utility_sd": found.sd if math.isfinite(found.sd) else None,
        "images": int(action.detail.get("images", 0)),
        "reason": action.reason,
    }


def final_defocus(run: Run) -> tuple[float, float, float]:
    """Return defocus and sd as last believed, and the simulator's truth, all of them for where the stage was left.

    The last decision may have moved it, so that both frame and belief are of another z. Not known is NaN.
    """
    nan = float("nan")
    detail: Mapping[str, float] = run.last_action.detail if run.last_action is not None else {}
    z_um, truth_um = run.settings.get("z_um", nan), nan
    if run.last is not None:
        truth_um = run.last.frame.truth.get("defocus_um", nan)
        truth_um += z_um - run.last.frame.settings.get("z_um", nan)
    if not side_known(detail):
        return nan, nan, truth_um
    defocus_um = z_um - detail["focus_z_um"] if "focus_z_um" in detail else detail.get("defocus_um", nan)
    return defocus_um, detail.get("defocus_sd_um", nan), truth_um


def facts_of(
    session: Session, config: Config, microscope: Microscope, parameters: Mapping[str, Parameter], shadow: bool
) -> dict[str, Any]:
    """Return what a person who comes to look should know of a session, as plain JSON."""
    return {
        "session": session.folder.name,
        "folder": str(session.folder),
        "started_utc": session.started.isoformat(),
        "driver": config.microscope.driver,
        "microscope": microscope.name,
        "simulated": microscope.simulated,
        "shadow": shadow,
        "policy": {"name": config.policy.name, "options": config.policy.options},
        "models": list(config.scoring.models),
        "parameters": {name: asdict(parameter) for name, parameter in parameters.items()},
    }
