"""The page's process as a run starts it: ends with its standard input, and logs JSON lines to standard error."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from pathlib import Path

import structlog

from parfocal import ParfocalError
from parfocal.daemon.logs import logs_to
from parfocal.daemon.web.serving import Serving, serve

log = structlog.get_logger()


def main() -> int:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m parfocal.daemon.web")
    for name in ("bind", "links", "address", "publish"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--key")
    parser.add_argument("--fd", type=int)
    parser.add_argument("--show", action="store_true")
    given = parser.parse_args()
    if hasattr(os, "nice"):
        with contextlib.suppress(OSError):
            os.nice(5)  # the loop goes first
    what = Serving(
        given.bind, given.address, given.publish, Path(given.key) if given.key else None, given.show,
        Path(given.links), child=True, fd=given.fd,
    )  # fmt: skip
    with logs_to(stream=sys.stderr, level=logging.INFO):
        try:
            serve(what, lambda address, _: log.info("page.served", address=address))
        except ParfocalError as error:
            log.error("page.failed", error=str(error))
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
