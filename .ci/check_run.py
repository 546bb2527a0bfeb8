"""Fails unless the JSON of `parfocal run --frames N --json` tells of a simulated sample that was found and held."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from parfocal.daemon.compose import policy_options
from parfocal.daemon.config import load_config


def problems(summary: dict[str, Any], frames: int, dof_um: float) -> list[str]:
    """Return what is wrong with a summary; `dof_um` is the depth of field, the largest true defocus at the end."""
    found = []
    if summary.get("outcome") != "done":
        found.append(f"outcome is {summary.get('outcome')!r}, not 'done'")
    if summary.get("simulated") is not True:
        found.append(f"simulated is {summary.get('simulated')!r}, not true")
    if summary.get("frames") != frames:
        found.append(f"{summary.get('frames')} frames, not {frames}")
    defocus_um = (summary.get("truth") or {}).get("defocus_um")
    if not isinstance(defocus_um, float) or not abs(defocus_um) <= dof_um:
        found.append(f"true defocus {defocus_um} um at the end, more than the depth of field of {dof_um:.2f} um")
    return found


def main(path: Path, frames: int) -> int:
    """Check one file; return the exit code."""
    dof_um = policy_options(load_config(None))["dof_um"]
    found = problems(json.loads(path.read_text(encoding="utf-8")), frames, dof_um)
    sys.stdout.write("".join(f"run: {problem}\n" for problem in found) or "run: found and held\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
