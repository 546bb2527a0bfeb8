"""`parfocal train`, `evaluate` and `bench`: hand the rest of the command line to the tool of that name."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, cast

import typer

from parfocal import ParfocalError, UsageError, did_you_mean

TRAINERS: Mapping[str, str] = {
    "defocus": "parfocal.models.training.cli:train_defocus",
    "quality": "parfocal.models.training.quality_cli:train_quality",
    "restore": "parfocal.models.training.restore_cli:train_restore",
    "sted-quality": "parfocal.models.training.sted_quality_cli:train_sted_quality",
}
EVALUATORS: Mapping[str, str] = {
    "defocus": "parfocal.models.training.cli:evaluate_defocus",
    "quality": "parfocal.models.training.quality_cli:evaluate_quality",
    "restore": "parfocal.models.training.restore_cli:evaluate_restore",
    "sted-quality": "parfocal.models.training.sted_quality_cli:evaluate_sted_quality",
}
BENCHES: Mapping[str, str] = {"all": "parfocal.daemon.bench:run"}
"""Name -> ``module:function``; the function takes the remaining arguments, parses them and returns an exit code."""

Tool = Callable[[list[str]], int]


class ToolMissingError(ParfocalError):
    """A tool that this installation should have cannot be imported."""

    exit_code = 3


def train(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help=f"What to train: {', '.join(TRAINERS)}.")] = "",
) -> None:
    """Train a model, reproducibly; `parfocal train MODEL --help` lists its options."""
    _dispatch("train", TRAINERS, model, ctx.args)


def evaluate(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help=f"What to evaluate: {', '.join(EVALUATORS)}.")] = "",
) -> None:
    """Print the tables of a model's card; `parfocal evaluate MODEL --help` lists its options."""
    _dispatch("evaluate", EVALUATORS, model, ctx.args)


def bench(
    ctx: typer.Context,
    what: Annotated[str, typer.Argument(help="Which table; all of them when absent.")] = "",
) -> None:
    """Print the speed and accuracy tables of the README, measured on this machine."""
    # The bench knows its tables itself; only the name is told apart from its options here.
    rest = [what, *ctx.args] if what else list(ctx.args)
    raise typer.Exit(_load(BENCHES["all"], "bench")(rest))


def _dispatch(verb: str, tools: Mapping[str, str], name: str, rest: list[str]) -> None:
    if not name or name.startswith("-"):
        if name == "--help" or "--help" in rest:
            typer.echo(f"Usage: parfocal {verb} MODEL [OPTIONS]\n\nMODEL is one of: {', '.join(tools)}.")
            typer.echo(f"`parfocal {verb} MODEL --help` lists its options.")
            raise typer.Exit
        raise UsageError(f"{verb}: name a model: {', '.join(tools)}")
    if name not in tools:
        raise UsageError(f"{verb}: there is {', '.join(tools)}, no {name!r}{did_you_mean(name, tools)}")
    from parfocal.daemon.logs import logs_to

    # A training takes an hour, tables minutes: whoever waits sees how far it is.
    with logs_to(stream=sys.stderr, level=logging.INFO):
        code = _load(tools[name], f"{verb} {name}")(rest)
    raise typer.Exit(code)


def _load(target: str, what: str) -> Tool:
    module, _, function = target.partition(":")
    try:
        return cast("Tool", getattr(importlib.import_module(module), function))
    except (ImportError, AttributeError) as error:
        raise ToolMissingError(f"{what} needs {module}, which cannot be imported: {error}") from error
