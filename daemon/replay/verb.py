"""What `parfocal replay` does: the way through the record that was asked for, shown to a person or as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from parfocal import UsageError
from parfocal.daemon.replay import tables
from parfocal.daemon.replay.against import Against, run_against
from parfocal.daemon.replay.choices import OPEN_LOOP, Choice, Tried, try_choice
from parfocal.daemon.replay.compare import difference
from parfocal.daemon.replay.decisions import reproduce
from parfocal.daemon.replay.frames import TOLERANCE_SD
from parfocal.daemon.replay.reader import SessionReader
from parfocal.daemon.replay.tables import comparison_table, differences_table, reproduction_table, save_plot

STRONG, ALERT = "bold bright_blue", "bold dark_orange"


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line.

    `overrides` are keys of the simulated configuration, for `against`.
    """

    session: Path
    choice: Choice = field(default_factory=Choice)
    against: str | None = None
    overrides: Sequence[str] = ()
    seed: int = 0
    max_frames: int | None = None
    plot: Path | None = None
    out: Path | None = None
    as_json: bool = False


def replay(request: Request, console: Console | None = None) -> int:
    """Do it, and show it; return the exit code: 1 if a decision could not be reproduced."""
    if request.against not in (None, "simulator"):
        raise UsageError(f"--against: expected simulator (got {request.against!r})")
    console = console or Console()
    reader = SessionReader(request.session)
    choice = request.choice
    if request.against is not None:
        content, code = _against(reader, request, console)
    elif choice.of_policy or choice.model is not None or choice.frames or choice.model_options:
        content, code = _tried(reader, request, console)
    else:
        content, code = _exact(reader, request, console)
    head = {"session": str(reader.folder), "simulated": reader.simulated, "notes": reader.notes}
    if request.as_json:
        console.file.write(json.dumps(head | content, allow_nan=False, default=float) + "\n")
    else:
        _say_notes(reader, console)
    return code


def _banner(reader: SessionReader, console: Console) -> None:
    first = next(reader.journal.of("policy"), {})
    line = Text("SIMULATED session " if reader.simulated else "session ").append(reader.name, style="bold")
    console.print(line.append(f", policy {first.get('policy', 'not made')}"))


def _say_notes(reader: SessionReader, console: Console) -> None:
    for note in reader.notes:
        console.print(Text(f"note: {note}", style="dark_orange"))


def _exact(reader: SessionReader, request: Request, console: Console) -> tuple[dict[str, Any], int]:
    began = time.perf_counter()
    found = reproduce(reader)
    took_s = time.perf_counter() - began
    if not request.as_json:
        _banner(reader, console)
        console.print(reproduction_table(found))
        rate = f", {found.session_s / took_s:.0f} times faster than it was" if found.session_s > 0 else ""
        console.print(f"replayed in {took_s:.2f} s{rate}")
        if found.differing:
            first_s = found.differing[0].time_s
            console.print(differences_table(found.differing, first_s))
    content = {
        "mode": "exact",
        "identical": found.identical,
        "decisions": found.decisions,
        "differing": len(found.differing),
        "unfinished": found.unfinished,
        "decisions_sha256": {
            "recorded": found.recorded_sha256, "replayed": found.replayed_sha256, "stated": found.stated_sha256,
        },
        "session_s": found.session_s,
        "took_s": took_s,
        "differences": [difference(one) for one in found.differing],
    }  # fmt: skip
    return content, 0 if found.identical else 1


def _tried(reader: SessionReader, request: Request, console: Console) -> tuple[dict[str, Any], int]:
    with console.status("deciding again") if not request.as_json else _Quiet() as status:
        tried = try_choice(reader, request.choice, lambda n: status.update(f"deciding again: {n} decisions"))
    mode = "open_loop" if tried.open_loop else "frames"
    content: dict[str, Any] = {"mode": mode, **tried.comparison.to_json()}
    content["note"] = OPEN_LOOP if tried.open_loop else ""
    if tried.rescoring is not None:
        content["frames"] = tried.rescoring.to_json()
    agrees = not tried.comparison.differing and not content.get("frames", {}).get("outside_tolerance")
    content["within_tolerance"] = agrees
    if request.plot is not None:
        note = "open loop" if tried.open_loop else ""
        save_plot(tried.comparison, request.plot, simulated=reader.simulated, note=note)
        content["plot"] = str(request.plot)
    if not request.as_json:
        _banner(reader, console)
        _show_tried(tried, content, console)
    return content, 0 if tried.open_loop or agrees else 1


def _show_tried(tried: Tried, content: Mapping[str, Any], console: Console) -> None:
    comparison = tried.comparison
    console.print(comparison_table(comparison))
    if tried.rescoring is not None:
        console.print(_frames_line(content["frames"]))
    if comparison.differing:
        console.print()
        console.print(differences_table(comparison.differing, comparison.decisions[0].time_s))
    for line in tables.terminal_plot(comparison, console) if tried.open_loop or comparison.differing else ():
        console.print(line)
    if tried.open_loop:
        console.print(Text(OPEN_LOOP, style="italic"))
    if comparison.would_trip is not None:
        console.print(Text(f"the guard would have ended the session at frame {comparison.would_trip}", style=ALERT))
    if comparison.finished is not None:
        console.print(
            Text(f"it would have finished at frame {comparison.finished}: compared up to there", style=STRONG)
        )
    if "plot" in content:
        console.print(f"plot {content['plot']}")


def _frames_line(found: Mapping[str, Any]) -> Text:
    line = Text(f"{found['scored']} frames scored again; ")
    if found["compared"]:
        outside, largest = found["outside_tolerance"], found["largest_difference_sd"]
        line.append(
            f"{found['compared'] - outside} of {found['compared']} assessments within {TOLERANCE_SD:g} sd of then",
            style=ALERT if outside else STRONG,
        )
        line.append("" if largest is None else f" (largest difference {largest:.3g} sd)")
    else:
        line.append("nothing to compare with: that model did not look then")
    if found["not_recorded"]:
        line.append(f"; {found['not_recorded']} were not recorded: what was assessed then stands")
    return line


def _against(reader: SessionReader, request: Request, console: Console) -> tuple[dict[str, Any], int]:
    choice = request.choice
    if choice.model is not None or choice.frames or choice.model_options:
        raise UsageError("--against simulator takes no --model or --frames; use --set scoring.models=[...]")
    policies: list[tuple[str | None, Mapping[str, Any]]] = [(None, {})]
    if choice.of_policy:
        policies.append((choice.policy, choice.options))
    with console.status("simulating") if not request.as_json else _Quiet() as status:
        found = run_against(
            reader, policies, seed=request.seed, max_frames=request.max_frames, overrides=request.overrides,
            out=request.out, say=status.update,
        )  # fmt: skip
    content = {"mode": "against_simulator", **found.to_json()}
    if request.plot is not None:
        tables.save_courses(found, request.plot)
        content["plot"] = str(request.plot)
    if not request.as_json:
        _banner(reader, console)
        console.print(Text("SIMULATED: the loop closed on a simulator made from the session", style=STRONG))
        console.print(_estimates(found))
        for line in found.twin.assumptions:
            console.print(Text(f"assumed: {line}", style="italic"))
        console.print(tables.courses_table(found))
        if "plot" in content:
            console.print(f"plot {content['plot']}")
        if request.out is not None:
            console.print(f"sessions of the runs in {request.out}")
    return content, 0


def _estimates(found: Against) -> Table:
    table = Table.grid(padding=(0, 2))
    for what, values in found.twin.estimates.items():
        if isinstance(values, Mapping):
            said = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            table.add_row(f"estimated {what}", said)
    return table


class _Quiet:
    """Says nothing, where JSON is asked for."""

    def __enter__(self) -> _Quiet:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, _: str) -> None:
        """Say nothing."""
