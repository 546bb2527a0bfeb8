"""`parfocal calibrate` as a run: the sweep as a session of its own, then the table and the file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from parfocal.daemon.calibrate import BLUR, Sweep, calibration_overrides, content, store, sweep_script
from parfocal.daemon.config import load_config
from parfocal.daemon.plot import plot_rows
from parfocal.daemon.presenters import make_presenter
from parfocal.daemon.running import run_facts, run_locked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from parfocal.daemon.calibrate import SweepScript
    from parfocal.daemon.config import Config
    from parfocal.daemon.loop import Listener, Loop, Onlooker
    from parfocal.daemon.summary import Summary
    from parfocal.models.base import Assessment

PLOT_COLUMNS, PLOT_ROWS = 60, 10


def run_calibration(
    config_path: Path | None,
    overrides: Sequence[str],
    sweep: Sweep,
    out: Path,
    *,
    session_folder: Path | None = None,
    as_json: bool = False,
) -> int:
    """Sweep, fit, store and show.

    Returns
    -------
    int
        What the process ends with.

    Raises
    ------
    CalibrationError
        The sweep shows no focus, or was not finished: nothing is stored.
    ParfocalError
        Whatever keeps the session from starting.
    """
    config = load_config(config_path, calibration_overrides(sweep, overrides))
    folder = session_folder.absolute() if session_folder is not None else None
    script = sweep_script(config, sweep)
    seen = Seen()

    def build(listeners: Sequence[Listener], onlooker: Onlooker | None) -> Loop:
        return build_sweep(config, script, folder, listeners, seen, onlooker)

    presenter = make_presenter(replace(run_facts(config), policy=script.name), as_json=as_json)

    def finish(summary: Summary, session: Path) -> None:
        if summary.exit_code:
            presenter.finish(summary, session)
            return
        facts = content(config, script, seen.models, simulated=summary.simulated, pixel_um=seen.pixel_um)
        store(out, made := {**facts, "session": session.name})
        if as_json:
            typer.echo(json.dumps({"file": str(out), "summary": summary.to_json(), **made}, allow_nan=False))
        else:
            _say(made, out, session)

    return run_locked(config, folder, build, presenter, finish).exit_code


def _say(made: Mapping[str, Any], out: Path, session: Path) -> None:
    """Show what was measured, and where it is."""
    typer.echo("\n".join(report(made)))
    typer.echo(f"\nstored in {out}; a configuration uses it with  policy: {{calibration: {out}}}")
    typer.echo(f"the sweep is recorded in {session}")


@dataclass
class Seen:
    """What only the run itself shows: which models looked, and the pixel size of what they looked at."""

    models: dict[str, Any] = field(default_factory=dict)
    pixel_um: float | None = None


def build_sweep(
    config: Config,
    script: SweepScript,
    folder: Path | None,
    listeners: Sequence[Listener],
    seen: Seen,
    onlooker: Onlooker | None = None,
) -> Loop:
    """Make the loop of a sweep: that of a run, with the script where the policy is."""
    from parfocal.daemon import compose
    from parfocal.daemon.decide import Decider
    from parfocal.daemon.loop import Loop
    from parfocal.daemon.session import Session
    from parfocal.daemon.terms import Ending

    scorer = compose.scorer_for(config)
    microscope = compose.microscope_for(config)
    about = {**compose.about(config, microscope, shadow=False), "policy": {"name": script.name}}
    return Loop(
        microscope,
        Decider(_Describing(scorer, seen), lambda frame: (script, {}), timeout_s=config.scoring.timeout_ms / 1000.0),
        Session.create(config, folder, about=about),
        ending=Ending(max_frames=config.session.max_frames),
        deadlines=compose.deadlines_of(config),
        listeners=listeners,
        onlooker=onlooker,
    )


class _Describing:
    """A scorer that leaves behind what its models were, for the calibration's file."""

    def __init__(self, scorer: Any, seen: Seen) -> None:
        self._scorer, self._seen = scorer, seen
        self.restart, self.close, self.describe = scorer.restart, scorer.close, scorer.describe

    def score(self, pixels: NDArray[Any], pixel_um: float, timeout_s: float) -> dict[str, Assessment]:
        """Assess a frame and note its pixel size."""
        self._seen.pixel_um = float(pixel_um)
        assessed: dict[str, Assessment] = self._scorer.score(pixels, pixel_um, timeout_s)
        return assessed

    def start(self) -> None:
        """Load the models and note which they are."""
        self._scorer.start()
        for name, facts in self._scorer.describe().items():
            card = facts.get("card", {})
            self._seen.models[name] = {
                "name": name,
                "version": card.get("version"),
                "weights_sha256": card.get("weights_sha256"),
            }


def report(made: Mapping[str, Any]) -> list[str]:
    """Return a small plot and table of what was measured and fitted, as lines."""
    response, measured = made["response"], made["measured"]
    z0_um = made["vertex_um"]
    defocus = np.asarray(response["defocus_um"])
    top = max([value for value in measured["values"] if value is not None] + list(response["mean"]))
    x_range = (float(defocus[0]), float(defocus[-1]))
    unit = "px" if response["source"] == BLUR else ""
    rows = plot_rows(
        list(zip(response["defocus_um"], response["mean"], strict=True)),
        width=PLOT_COLUMNS,
        height=PLOT_ROWS,
        x_range=x_range,
        y_range=(0.0, top),
    )
    labels = [f"{top:.1f}", *[""] * (PLOT_ROWS - 2), "0.0"]
    abstained = sum(value is None for value in measured["values"])
    lines = [
        f"{'SIMULATED  ' if made['simulated'] else ''}focus at z = {z0_um:+.3f} um, "
        f"{len(measured['values'])} frames, {abstained} abstained",
        f"depth of field about {made['dof_um']:.2g} um, as far as the blur shows it",
        "",
        *(f"{label:>9} {row}" for label, row in zip(labels, rows, strict=True)),
        f"{'':9} {f'{x_range[0]:+.1f}':<{PLOT_COLUMNS // 2}}{f'{x_range[1]:+.1f} um':>{PLOT_COLUMNS // 2}}",
        "",
        f"  defocus um   {'blur ' + unit if unit else 'network says':>12}   sd",
    ]
    for share in np.linspace(0, 1, 9):
        at = x_range[0] + share * (x_range[1] - x_range[0])
        mean, sd = (float(np.interp(at, defocus, response[name])) for name in ("mean", "sd"))
        lines.append(f"  {at:+10.2f}   {mean:12.3f}   {sd:.3f}")
    return lines if math.isfinite(top) else lines[:1]
