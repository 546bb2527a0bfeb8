"""`parfocal bench`: the tables of the README, measured on this machine, baselines in the same run."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from parfocal import UsageError, __version__, did_you_mean
from parfocal.models.training.arguments import count, need_file, need_folder

Table = dict[str, Any]
"""A table: ``title``, ``columns``, ``rows`` (lists as long as columns), ``notes``."""


def run(argv: Sequence[str]) -> int:
    """Measure one table, or all; print Markdown, or JSON with ``--json``."""
    parser = argparse.ArgumentParser(prog="parfocal bench", description=run.__doc__)
    parser.add_argument("what", nargs="?", default="all", help="all, " + ", ".join(_tables()))
    parser.add_argument("--episodes", type=count, default=200, help="episodes for each light level (focus)")
    parser.add_argument("--jobs", type=count, default=os.cpu_count() or 1, help="processes (focus, sted)")
    parser.add_argument("--seeds", type=count, default=20, help="samples of each structure and dye (sted)")
    parser.add_argument("--images", type=count, default=20, help="STED images of each episode (sted)")
    parser.add_argument("--dyes", default="", help="comma-separated, instead of robust, fragile, dim (sted)")
    parser.add_argument("--policies", default="", help="comma-separated, of those the table compares (focus, sted)")
    parser.add_argument("--fields", type=Path, help="folder of real in-focus fields (defocus, restore)")
    parser.add_argument("--stacks", type=Path, help="folder of focus series with a truth.csv (defocus, restore)")
    parser.add_argument("--yang", type=Path, help="weights of the paper's network, retrained (defocus)")
    parser.add_argument("--comi", type=Path, help="card of the CycleGAN (restore)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each subscribers' measurement (service)")
    parser.add_argument("--messages", type=count, default=100_000, help="of strangers (service)")
    parser.add_argument("--events", type=count, default=100, help="of each acquisition (mda)")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(list(argv))
    known = _tables()
    if options.what != "all" and options.what not in known:
        names = ["all", *known]
        hint = did_you_mean(options.what, names)
        raise UsageError(f"bench: there is no table {options.what!r}{hint}; there are {', '.join(names)}")
    # At once, not after an hour of other tables.
    need_folder("--fields", options.fields)
    need_folder("--stacks", options.stacks)
    need_file("--yang", options.yang)
    need_file("--comi", options.comi)
    names = list(known) if options.what == "all" else [options.what]
    found: dict[str, Any] = {"machine": machine()}
    for name in names:
        found[name] = known[name](options)
        if not options.json:
            sys.stdout.write("\n".join(_markdown(found[name])) + "\n\n")
            sys.stdout.flush()
    if options.json:
        from parfocal.models.training.card_tables import plain

        sys.stdout.write(json.dumps(plain(found), indent=1, allow_nan=False) + "\n")
    else:
        sys.stdout.write(f"Measured on {found['machine']}.\n")
    return 0


def machine() -> str:
    """What measured this, in a line."""
    import torch

    names = [f"parfocal {__version__}", f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    return f"{_processor()}, {os.cpu_count()} cores, {platform.system()}; {', '.join(names)}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _tables() -> dict[str, Callable[[argparse.Namespace], Table]]:
    """Name of each table and what measures it; imported only when asked for."""

    def late(module: str, function: str) -> Callable[[argparse.Namespace], Table]:
        def measure(options: argparse.Namespace) -> Table:
            import importlib

            table: Table = getattr(importlib.import_module(f"parfocal.daemon.{module}"), function)(options)
            return table

        return measure

    return {
        "speed": late("bench_speed", "speed"),
        "loop": late("bench_speed", "loop_latency"),
        "focus": late("bench_focus", "focus"),
        "drift": late("bench_focus", "drift"),
        "doubt": late("bench_focus", "doubt"),
        "defocus": late("bench_defocus", "defocus"),
        "frc": late("bench_quality", "frc"),
        "quality": late("bench_quality", "quality"),
        "restore": late("bench_restore", "restore"),
        "sted": late("bench_sted", "sted"),
        "service": late("bench_service", "service"),
        "mda": late("bench_mda", "mda"),
    }


def _markdown(table: Table) -> list[str]:
    lines = [f"### {table['title']}", ""]
    lines.append("| " + " | ".join(table["columns"]) + " |")
    lines.append("|" + "---|" * len(table["columns"]))
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in table["rows"]]
    return lines + ([""] + [f"- {note}" for note in table["notes"]] if table.get("notes") else [])


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
