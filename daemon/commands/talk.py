"""`parfocal status`, `pause`, `resume`, `stop`, `safe`, `set`, `snap` and `watch`: talking to a running daemon."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parfocal.daemon.commands.run import JsonOption

if TYPE_CHECKING:
    from parfocal.daemon.client import Client
    from parfocal.daemon.service.messages import Done

Address = Annotated[
    str | None,
    typer.Option("--address", envvar="PARFOCAL_ADDRESS", help="Of the daemon; the one of this computer when absent."),
]
Key = Annotated[
    Path | None, typer.Option("--key", envvar="PARFOCAL_KEY", help="Secret key file, where the daemon wants one.")
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for an answer.")]
ReasonArgument = Annotated[str, typer.Argument(help="Why; it goes into the journal.")]


def status(address: Address = None, key: Key = None, timeout: Timeout = 5.0, json_: JsonOption = False) -> None:
    """Say what a running daemon is doing."""
    with _client(address, key, timeout) as client:
        found = client.status()
    if json_:
        typer.echo(json.dumps(found.to_json(), allow_nan=False))
        return
    typer.echo(str(found))


def pause(reason: ReasonArgument = "", address: Address = None, key: Key = None, timeout: Timeout = 5.0) -> None:
    """Stop the camera and hold, after the frame at hand; `parfocal resume` goes on."""
    _say(address, key, timeout, lambda client: client.pause(reason))


def resume(address: Address = None, key: Key = None, timeout: Timeout = 5.0) -> None:
    """Go on after a pause."""
    _say(address, key, timeout, lambda client: client.resume())


def stop(reason: ReasonArgument = "", address: Address = None, key: Key = None, timeout: Timeout = 5.0) -> None:
    """End the session in good order, after the frame at hand."""
    _say(address, key, timeout, lambda client: client.stop(reason))


def safe(reason: ReasonArgument = "", address: Address = None, key: Key = None, timeout: Timeout = 5.0) -> None:
    """Make the microscope safe at once (beams off, stage stopped) and end; returns when it is."""
    _say(address, key, timeout, lambda client: client.safe(reason))


def snap(address: Address = None, key: Key = None, timeout: Timeout = 30.0, json_: JsonOption = False) -> None:
    """Take one frame while paused and say what it is worth; nothing is done about it."""
    with _client(address, key, timeout) as client:
        done = client.snap()
    if json_:
        typer.echo(json.dumps(done.detail, allow_nan=False))
        return
    typer.echo(done.text)
    from parfocal.daemon.service.clientview import assessment_text

    for name, one in done.detail["assessments"].items():
        said = f"abstained: {one['reason']}" if one["abstained"] else assessment_text(name, one)
        typer.echo(f"  model {name}: {said}")


def set_(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUE",
            help="limits.z_um.upper=50, policy.name=focus.hold, policy.OPTION=VALUE, preview.restored=unet",
        ),
    ],
    address: Address = None,
    key: Key = None,
    timeout: Timeout = 15.0,
) -> None:
    """Change a limit (only narrower than the session began with), a policy option, the policy, or the restored preview.

    The value `null` undoes it.
    """
    from parfocal.daemon.setting import carry_out, check_names, read_setting

    settings = [read_setting(text) for text in what]
    with _client(address, key, timeout) as client:
        if len(settings) > 1:
            check_names(settings, client.status())
        carry_out(settings, client, typer.echo)


def watch(
    address: Address = None,
    key: Key = None,
    timeout: Timeout = 10.0,
    json_: JsonOption = False,
    count: Annotated[int | None, typer.Option("--frames", min=1, help="Leave after so many frames.")] = None,
) -> None:
    """Follow a running daemon frame by frame, until it ends or Ctrl-C; with --json one event a line."""
    from parfocal.daemon.watching import watch_json, watch_lines

    with _client(address, key, timeout) as client:
        client.status()  # somebody is there, and lets us look
        try:
            (watch_json if json_ else watch_lines)(client, timeout, count)
        except KeyboardInterrupt:
            raise typer.Exit from None


def _client(address: str | None, key: Path | None, timeout: float) -> Client:
    from parfocal.daemon.client import Client

    return Client(address, key=key, timeout_s=timeout, via="terminal")


def _say(address: str | None, key: Path | None, timeout: float, verb: Callable[[Client], Done]) -> None:
    with _client(address, key, timeout) as client:
        typer.echo(verb(client).text)
