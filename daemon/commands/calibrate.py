"""`parfocal calibrate`: measure an objective's response."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parfocal.daemon.commands.run import JsonOption, SetOption


def calibrate(
    config: Annotated[Path | None, typer.Argument(help="Configuration; the packaged one when absent.")] = None,
    range_um: Annotated[float, typer.Option("--range-um", min=0.1, help="Length, half to each side.")] = 20.0,
    step_um: Annotated[float, typer.Option("--step-um", min=0.001, help="Distance between its planes.")] = 1.0,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Frames a plane.")] = 3,
    out: Annotated[Path, typer.Option("--out", help="Where to store the calibration.")] = Path("calibration.json"),
    go: Annotated[bool, typer.Option("--go", help="End at the focus found, not where the stage was.")] = False,
    session: Annotated[Path | None, typer.Option("--session", help="Folder to put the record into.")] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Sweep through focus once and store how the networks' answers depend on defocus, for `policy.calibration`."""
    from parfocal.daemon.calibrate import Sweep
    from parfocal.daemon.calibrating import run_calibration

    sweep = Sweep(range_um, step_um, repeats, go)
    raise typer.Exit(run_calibration(config, set_ or [], sweep, out, session_folder=session, as_json=json_))
