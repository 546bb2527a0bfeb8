"""`parfocal keys`: keys for those who may talk to a daemon from another computer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from parfocal.daemon.commands.run import JsonOption

keys = typer.Typer(no_args_is_help=True, help="Make keys for those who may talk to a daemon.")


@keys.callback()
def _keys() -> None:
    """Make keys for those who may talk to a daemon."""


@keys.command("new", short_help="Make a key pair.")
def new(
    name: Annotated[str, typer.Argument(help="Whose key: a person, a computer or a program.")],
    role: Annotated[str, typer.Option("--role", help="observe (look only) or operate.")],
    folder: Annotated[Path, typer.Option("--keys", help="The daemon's folder of keys.")] = Path("keys"),
    json_: JsonOption = False,
) -> None:
    """Make a CURVE key pair (files that only you can read), and the daemon's own if there is none yet."""
    from parfocal.daemon.service.keys import new_key

    path, key = new_key(folder, name, role)
    if json_:
        said = {"name": key.name, "role": key.role, "secret": str(path), "public": key.public, "server": key.server}
        typer.echo(json.dumps(said))
        return
    typer.echo(f"{path}: carry this to where {name} works, by a way nobody can listen to, and remove it here")
    typer.echo("in the daemon's configuration:")
    typer.echo(f"  service: {{bind: 'tcp://*:5570', keys: {folder}, allow: {{{name}: {role}}}}}")
    typer.echo(f"there:  parfocal status --address tcp://THIS-COMPUTER:5570 --key {path.name}")
