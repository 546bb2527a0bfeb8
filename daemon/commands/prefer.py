"""`parfocal prefer`: shows two outcomes at a time, and learns from the picks what is wanted of a STED image."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parfocal import UsageError, did_you_mean

if TYPE_CHECKING:
    from parfocal.daemon.prefer import Asker, Outcome, Picks

HELP = "1 or 2: that one   =: equal, ask another   u: take the last pick back   q: enough"


def prefer(
    file: Annotated[Path, typer.Argument(help="Where picks and network are kept; continued if it exists.")],
    session: Annotated[
        list[Path] | None, typer.Option("--session", help="Show the outcomes of this recorded session; repeatable.")
    ] = None,
    picks: Annotated[int, typer.Option("--picks", min=1, help="So many picks, then enough.")] = 20,
    pairs: Annotated[
        Path | None, typer.Option("--pairs", help="Learn from picks made elsewhere (JSON lines), and ask nothing.")
    ] = None,
    objectives: Annotated[
        str, typer.Option("--objectives", help="What is shown, by commas; default resolution_nm,bleach,signal_ratio.")
    ] = "",
    seed: Annotated[int, typer.Option("--seed", help="Of what is shown, and of the training.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Teach a preference for STED images, by picks between two outcomes.

    The file then serves as `policy.preference` of a STED policy.
    """
    from parfocal.daemon import prefer as preferences

    made = _start(file, objectives)
    if pairs is not None:
        for winner, loser in preferences.read_pairs(pairs, made.inputs).pairs:
            if cycle := made.add(winner, loser):
                raise preferences.PreferenceCycleError(
                    f"{pairs} contradicts what {file} holds: {preferences.describe_cycle(cycle, made.inputs)}"
                )
    else:
        outcomes = preferences.outcomes_of(session, made.inputs) if session else None
        _interview(preferences.Asker(made, outcomes, seed), picks)
    made.check()
    if not made.pairs:
        raise UsageError("no picks were made: there is nothing to learn from, and nothing was written")
    content = preferences.save(file, made, made.learn(seed))
    if as_json:
        summary = {"file": str(file), "picks": len(made.pairs), "inputs": list(made.inputs)}
        typer.echo(json.dumps(summary | {"agreement": content["agreement"]}))
        return
    typer.echo(
        f"{len(made.pairs)} picks in {file}; the network learned from them orders {content['agreement']:.0%} of them "
        f"as you did.\nUse it with `policy: {{name: sted.bayes, preference: {file}}}`."
    )


def _start(file: Path, objectives: str) -> Picks:
    from parfocal.daemon import prefer as preferences

    wanted = tuple(part.strip() for part in objectives.split(",") if part.strip())
    for name in wanted:
        if name not in preferences.RANGES:
            known = ", ".join(preferences.RANGES)
            raise UsageError(
                f"--objectives: unknown {name!r}{did_you_mean(name, preferences.RANGES)}; there are {known}"
            )
    if not file.exists():
        return preferences.Picks(wanted or preferences.INPUTS)
    made, _ = preferences.load(file)
    if wanted and wanted != made.inputs:
        raise UsageError(f"{file} was made with {', '.join(made.inputs)}: give those objectives, or another file")
    return made


def _interview(asker: Asker, count: int) -> None:
    """Ask until there are enough picks, or the person has enough."""
    typer.echo(f"Which image would you rather have? {HELP}")
    made = 0
    while made < count:
        both = asker.next()
        if both is None:
            typer.echo("There is nothing left to ask: of every other two outcomes one is better throughout.")
            return
        _show(both, asker.picks, made + 1)
        answer = _answer("1 / 2 / = / u / q", "12=uq")
        if answer == "q":
            return
        if answer == "u" and asker.picks.pairs:
            asker.picks.pairs.pop()
            made = max(made - 1, 0)
        elif answer in "12":
            made += _pick(asker.picks, both if answer == "1" else (both[1], both[0]))


def _pick(picks: Picks, pair: tuple[Outcome, Outcome]) -> int:
    """Add a pick; where it contradicts earlier ones the person says which hold. Returns 1 if it was added."""
    from parfocal.daemon.prefer import describe_cycle

    cycle = picks.add(*pair)
    if not cycle:
        return 1
    typer.echo(f"This contradicts earlier picks: {describe_cycle(cycle, picks.inputs)}.")
    if _answer("n: the new pick holds   o: the old ones hold", "no") == "o":
        return 0
    dropped = picks.replace(*pair)
    typer.echo(f"{dropped} earlier pick{'s' if dropped > 1 else ''} dropped.")
    return 1


def _show(both: tuple[Outcome, Outcome], picks: Picks, number: int) -> None:
    from rich.console import Console
    from rich.table import Table

    from parfocal.daemon.prefer import UNITS

    table = Table(title=f"pick {number}", title_justify="left")
    for heading in ("", "1", "2"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, first, second in zip(picks.inputs, *both, strict=True):
        shown: Callable[[float], str] = (lambda v: f"{v:.0%}") if name == "bleach" else (lambda v: f"{v:.3g}")
        unit = UNITS.get(name, "")
        word = name.removesuffix("_nm").removesuffix("_us").replace("_", " ")
        table.add_row(f"{word} ({unit})" if unit else word, shown(first), shown(second))
    Console().print(table)


def _answer(prompt: str, allowed: str) -> str:
    """Read one of the allowed keys; the end of input means enough."""
    while True:
        try:
            said = str(typer.prompt(prompt, prompt_suffix=": ")).strip().lower()
        except typer.Abort:
            if "q" in allowed:
                return "q"
            raise
        if len(said) == 1 and said in allowed:
            return said
        typer.echo(f"Type one of {', '.join(allowed)}.")
