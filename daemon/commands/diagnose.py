"""`parfocal check` and `parfocal doctor`: is the configuration right, is the machine fit."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from parfocal.daemon.commands.run import JsonOption, SetOption

SIGNS = {"ok": "ok  ", "note": "NOTE", "fail": "FAIL"}


def check(
    config: Annotated[Path, typer.Argument(help="Configuration file.")],
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Check a configuration; every problem as `file:line key: what is wrong (got ...); did you mean ...?`."""
    from parfocal.daemon.check import checked

    found = checked(config, set_ or [])
    problems, warnings = found.problems, found.warnings
    if json_:
        said = {"config": str(config), "valid": not problems, "problems": problems, "warnings": warnings}
        typer.echo(json.dumps(said))
    else:
        for problem in problems:
            typer.echo(problem, err=True)
        for warning in warnings:
            typer.echo(f"warning: {warning}", err=True)
        if not problems:
            typer.echo(f"{config}: no problems found")
    raise typer.Exit(3 if problems else 0)


def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="Configuration to look at too; the packaged one when absent.")
    ] = None,
    set_: SetOption = None,
    alert: Annotated[bool, typer.Option("--alert", help="Also send a test message to alerts.webhook.")] = False,
    json_: JsonOption = False,
) -> None:
    """Look at versions, compute, Micro-Manager, models, limits, disk and clock; change nothing."""
    from parfocal.daemon.config import load_config
    from parfocal.daemon.doctor import examine, try_alert

    findings = []
    group = ""
    loaded = load_config(config, set_ or [])
    for finding in chain(examine(loaded), try_alert(loaded) if alert else ()):
        findings.append(finding)
        if json_:
            continue
        if finding.group != group:
            group = finding.group
            typer.echo(f"{group}")
        typer.echo(f"  {SIGNS[finding.status]}  {finding.name:<14} {finding.detail}")
    failed = [finding for finding in findings if finding.status == "fail"]
    code = max((finding.exit_code for finding in failed), default=0)
    if json_:
        typer.echo(json.dumps({"healthy": not failed, "findings": [finding.to_json() for finding in findings]}))
    else:
        noted = sum(finding.status == "note" for finding in findings)
        typer.echo(f"{len(findings)} looked at: {len(failed) or 'none'} failed, {noted or 'none'} to be noted")
    raise typer.Exit(code)
