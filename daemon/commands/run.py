"""`parfocal run`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override any configuration key, e.g. policy.name=focus.hold."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON to stdout and nothing else there.")]


def run(
    config: Annotated[
        Path | None, typer.Argument(help="Configuration file; a simulated microscope that drifts when absent.")
    ] = None,
    frames: Annotated[int | None, typer.Option("--frames", min=1, help="Stop after so many frames.")] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", min=0.001, help="Stop after so long.")] = None,
    until_focused: Annotated[bool, typer.Option("--until-focused", help="Stop once the sample is in focus.")] = False,
    session: Annotated[Path | None, typer.Option("--session", help="Folder to put this session into.")] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Decide and record, but command nothing.")] = False,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Keep a microscope in focus until the session's length is reached, or until Ctrl-C."""
    from parfocal.daemon.running import run_session

    overrides = list(set_ or [])
    if frames is not None:
        overrides.append(f"session.max_frames={frames}")
    if seconds is not None:
        overrides.append(f"session.max_seconds={seconds}")
    if until_focused:
        overrides.append("session.until_focused=true")
    raise typer.Exit(run_session(config, overrides, session_folder=session, shadow=shadow, as_json=json_))
