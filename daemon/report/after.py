"""The report at the end of a run: written for whoever comes in the morning, and never a reason for a run to fail."""

from __future__ import annotations

from pathlib import Path

import structlog

log = structlog.get_logger()
MOST_BYTES = 200 * 1024 * 1024
"""Of the journal; a longer one takes a minute and gigabytes to read, and is left to whoever asks for the report."""


def report_after(folder: Path) -> Path | None:
    """Write the report of a session that has just ended; `None` (and a warning) if that does not work out.

    Decisions are not repeated here, which takes as long as deciding did: ``parfocal report`` does that.
    """
    try:
        from parfocal.daemon.report.page import write_report
        from parfocal.daemon.stedplot import write_plot

        if (folder / "journal.jsonl").stat().st_size > MOST_BYTES:
            log.info("report.left_out", why="a long session: `parfocal report` writes it", folder=str(folder))
            return None
        write_plot(folder)
        return write_report(folder, verify=False)
    except Exception as error:  # noqa: BLE001 - the session is whole without it, and `parfocal report` can try again
        log.warning("report.failed", folder=str(folder), error=f"{type(error).__name__}: {error}")
        return None
