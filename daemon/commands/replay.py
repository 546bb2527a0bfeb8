"""`parfocal replay`: decisions again from the record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parfocal.daemon.commands.run import JsonOption


def replay(
    session: Annotated[Path, typer.Argument(help="A session's folder.")],
    frames: Annotated[bool, typer.Option("--frames", help="Score the recorded frames again.")] = False,
    policy: Annotated[
        str | None, typer.Option("--policy", metavar="NAME", help="What another policy would have said.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="An option of the policy; with --against also a dotted key of the simulated configuration.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Score the recorded frames with another model.")
    ] = None,
    model_set: Annotated[
        list[str] | None, typer.Option("--model-set", metavar="KEY=VALUE", help="An option of that model.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="simulator", help="Close the loop on a simulator made from the session."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of that simulator.")] = 0,
    max_frames: Annotated[int | None, typer.Option("--max-frames", min=1, help="Simulate no more than these.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Keep the simulated sessions in this folder.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE.svg", help="Write the picture here.")] = None,
    json_: JsonOption = False,
) -> None:
    """Repeat a session's decisions from its record, bit for bit, or see where another choice would have differed."""
    from parfocal.daemon.replay.choices import Choice
    from parfocal.daemon.replay.settings import split_settings
    from parfocal.daemon.replay.verb import Request, replay

    options, overrides = split_settings("--set", set_ or [], dotted=against is not None)
    model_options, _ = split_settings("--model-set", model_set or [], dotted=False)
    choice = Choice(policy, options, model, model_options, frames)
    request = Request(session, choice, against, overrides, seed, max_frames, plot=plot, out=out, as_json=json_)
    raise typer.Exit(replay(request))
