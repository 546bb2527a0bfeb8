"""How an error reaches a person: one clear message on stderr and the right exit code; the traceback only on demand."""

from __future__ import annotations

import os
import sys
import traceback

from parfocal import ParfocalError


class Debugging:
    """Whether tracebacks are wanted (``--debug``, or PARFOCAL_DEBUG in the environment)."""

    on = False


def report(error: ParfocalError) -> int:
    """Write the error to stderr; return what the process should end with."""
    if Debugging.on or os.environ.get("PARFOCAL_DEBUG"):
        traceback.print_exception(error, file=sys.stderr)
    else:
        problems = getattr(error, "problems", None)
        text = "\n".join(str(problem) for problem in problems) if problems else str(error)
        sys.stderr.write(f"parfocal: {text}\n" if "\n" not in text else f"{text}\n")
    return error.exit_code
