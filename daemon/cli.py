"""The command line: `parfocal` and its verbs. Whatever is heavy is imported by the verb that needs it."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from parfocal import ParfocalError, __version__
from parfocal.daemon.commands import calibrate, diagnose, keys, prefer, replay, restore, run, score, talk, tools, web
from parfocal.daemon.commands import report as report_command
from parfocal.daemon.errors import Debugging, report
from parfocal.daemon.signals import leave_on_signal


class ReportingGroup(TyperGroup):
    """Turns an error that parfocal raised on purpose into one message and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except ParfocalError as error:
            raise typer.Exit(report(error)) from error


app = typer.Typer(
    name="parfocal",
    cls=ReportingGroup,
    help="Keeps a microscope in focus, frame by frame, and can say afterwards why it did what it did.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Exit codes: 0 done, 2 usage, 3 configuration, 4 hardware, 5 safety trip, 75 instrument in use.",
)

app.command("run", short_help="Keep a microscope in focus.")(run.run)
app.command("check", short_help="Check a configuration.")(diagnose.check)
app.command("doctor", short_help="Look at this machine and installation.")(diagnose.doctor)
app.command("score", short_help="Say how far image files are from focus.")(score.score)
app.command("restore", short_help="Show what out-of-focus images would look like in focus.")(restore.restore)
app.command("calibrate", short_help="Measure an objective's response with a short sweep.")(calibrate.calibrate)
app.command("prefer", short_help="Teach what is wanted of a STED image, by picks.")(prefer.prefer)
app.command("report", short_help="Write a session as one HTML file.")(report_command.report)
app.command("replay", short_help="Repeat a session's decisions from its record.")(replay.replay)
app.command("status", short_help="Say what a running daemon is doing.")(talk.status)
app.command("watch", short_help="Follow a running daemon frame by frame.")(talk.watch)
app.command("pause", short_help="Hold a running session.")(talk.pause)
app.command("resume", short_help="Go on after a pause.")(talk.resume)
app.command("stop", short_help="End a running session in good order.")(talk.stop)
app.command("safe", short_help="Make the microscope safe at once.")(talk.safe)
app.command("set", short_help="Change a limit or the policy of a running session.")(talk.set_)
app.command("snap", short_help="Take one frame while paused.")(talk.snap)
app.command("web", short_help="Serve the web page of a running daemon.")(web.web)
app.add_typer(keys.keys, name="keys", short_help="Make keys for those who may talk to a daemon.")
PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
app.command("train", short_help="Train a model, reproducibly.", context_settings=PASS_THROUGH)(tools.train)
app.command("evaluate", short_help="Print the tables of a model's card.", context_settings=PASS_THROUGH)(tools.evaluate)
app.command("bench", short_help="Print the speed and accuracy tables.", context_settings=PASS_THROUGH)(tools.bench)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"parfocal {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    from parfocal.daemon.logs import logs_to

    Debugging.on = debug
    # stdout belongs to results; a verb that wants more than warnings says so itself.
    ctx.with_resource(logs_to(stream=sys.stderr, level=logging.WARNING))


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        # A redirected stream of an old code page must lose a character, not the session.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app()
    except SystemExit as leaving:
        leave_on_signal(leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None))
        raise


if __name__ == "__main__":
    main()
