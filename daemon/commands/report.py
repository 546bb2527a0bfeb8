"""`parfocal report`: a session as one HTML file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from parfocal.daemon.commands.run import JsonOption


def report(
    session: Annotated[Path, typer.Argument(help="A session's folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Default: report.html in the session's folder.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Repeat every decision from the record, and say so.")
    ] = True,
    json_: JsonOption = False,
) -> None:
    """Write a session as one HTML file that needs nothing else: what was asked, what happened, and why."""
    from parfocal.daemon.replay.reader import SessionReader
    from parfocal.daemon.report.page import as_json, write_report

    path = write_report(session, out, verify=verify)
    if json_:
        typer.echo(json.dumps({"report": str(path), **as_json(SessionReader(session))}, allow_nan=False))
    else:
        typer.echo(f"report {path}")
