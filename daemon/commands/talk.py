"""`parfocal status`, `pause`, `resume`, `stop`, `safe`, `set`, `snap` and `watch`: talking to a running daemon."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parfocal import UsageError, did_you_mean
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
    for name, one in done.detail["assessments"].items():
        said = f"abstained: {one['reason']}" if one["abstained"] else f"{one['value']:.4g}"
        typer.echo(f"  {name}: {said}")


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
    orders = [_order(text) for text in what]
    with _client(address, key, timeout) as client:
        for order in orders:
            typer.echo(order(client).text)


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


def _order(text: str) -> Callable[[Client], Done]:
    """Read one KEY=VALUE; all of them are read before any is sent."""
    from parfocal.daemon.config_lines import parse_value

    name, equals, value_text = text.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        raise UsageError(f"set {text}: expected KEY=VALUE with a dotted KEY")
    value: Any = parse_value(value_text)
    if parts[0] == "limits" and len(parts) == 3:
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise UsageError(f"set {text}: a limit is a number, or null (got {value!r})")
        number = None if value is None else float(value)
        return lambda client: client.set_limit(parts[1], parts[2], number)
    if parts == ["policy", "name"]:
        return lambda client: client.set_policy(str(value))
    if parts[0] == "policy" and len(parts) == 2:
        return lambda client: client.set_option(parts[1], value)
    if parts in (["preview", "restored"], ["preview", "every_s"]):
        return lambda client: client.set_preview(parts[1], "off" if value is False else value)
    hint = did_you_mean(parts[0], ("limits", "policy", "preview"))
    raise UsageError(
        f"set {text}: while a session runs, limits.PARAMETER.BOUND, policy.name, policy.OPTION, preview.restored and "
        f"preview.every_s can be set{hint}"
    )
