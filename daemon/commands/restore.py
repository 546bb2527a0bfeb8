"""`parfocal restore`: what out-of-focus images would have looked like in focus, or why that cannot be said."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parfocal import UsageError
from parfocal.daemon.commands.run import JsonOption

if TYPE_CHECKING:
    from collections.abc import Callable

    from parfocal.daemon.fileoptics import PartialOptics
    from parfocal.daemon.restorefiles import FileRestorer
    from parfocal.daemon.restoreoutput import Layers
    from parfocal.daemon.restoreplaces import RestorePlaces
    from parfocal.daemon.restorereport import RestoreReport
    from parfocal.daemon.restorerows import RestoreJob, RestoreRow, RestoreTable


Paths = Annotated[list[Path], typer.Argument(help="TIFF, PNG or OME-Zarr, or folders, searched recursively.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder for what is computed; none that holds raw images.")]
MethodOption = Annotated[
    str, typer.Option("--method", help="unet (default), wiener, richardson_lucy, comi or identity.")
]
CardOption = Annotated[
    Path | None, typer.Option("--card", help="Card of a network of your own; that of the package when absent.")
]
NaOption = Annotated[float | None, typer.Option("--na", help="Numerical aperture.")]
PixelOption = Annotated[float | None, typer.Option("--pixel-um", help="Pixel at the sample, in um.")]
EmissionOption = Annotated[float | None, typer.Option("--emission-nm", help="Wavelength imaged, in nm.")]
IndexOption = Annotated[float | None, typer.Option("--immersion-index", help="Air 1.0, water 1.333...")]
WavesOption = Annotated[
    float | None,
    typer.Option("--spherical-waves", help="Spherical aberration, rms waves, where it was measured; signs count then."),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Optics for files that say nothing; aberrations told to its network.")
]
DefocusOption = Annotated[
    float | None, typer.Option("--defocus-um", help="Defocus of all planes, instead of an estimate for each.")
]
DoubtOption = Annotated[float | None, typer.Option("--defocus-sd-um", help="How far that may be wrong; 0 when absent.")]
TableOption = Annotated[
    list[Path] | None,
    typer.Option("--table", "--csv", help="Write the rows to FILE.csv or FILE.parquet; may be repeated."),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Restore again what is restored already, and replace tables.")
]


def restore(
    paths: Paths,
    out: OutOption,
    method: MethodOption = "unet",
    card: CardOption = None,
    na: NaOption = None,
    pixel_um: PixelOption = None,
    emission_nm: EmissionOption = None,
    immersion_index: IndexOption = None,
    spherical_waves: WavesOption = None,
    config: ConfigOption = None,
    defocus_um: DefocusOption = None,
    defocus_sd_um: DoubtOption = None,
    table: TableOption = None,
    force: ForceOption = False,
    json_: JsonOption = False,
) -> None:
    """Show what out-of-focus images would have looked like in focus: for looking at, never for measuring."""
    from parfocal.daemon.fileoptics import PartialOptics
    from parfocal.daemon.restoreoptics import ABERRATIONS, aberrations_of
    from parfocal.daemon.restorerows import RestoreJob

    _check_defocus(defocus_um, defocus_sd_um)
    given = PartialOptics(na, immersion_index, None if emission_nm is None else emission_nm / 1000.0, pixel_um)
    fallback, told = _from_config(config)
    aberrations = aberrations_of(told, spherical_waves)
    options = {name: value for name, value in told.items() if name not in ABERRATIONS}
    weights = {} if card is None else {"card": str(card)}
    job = RestoreJob(
        method, given, fallback, defocus_um, defocus_sd_um or 0.0, weights, options, aberrations, force
    )  # fmt: skip
    raise typer.Exit(_run(job, paths, out, list(dict.fromkeys(table or [])), as_json=json_))


def _run(job: RestoreJob, paths: list[Path], out: Path, tables: list[Path], *, as_json: bool) -> int:
    """Find the images, claim the folder, open the tables, restore; the exit code."""
    from parfocal.daemon.imagefiles import JPEG_SUFFIXES, find_images
    from parfocal.daemon.restoreplaces import RestorePlaces
    from parfocal.daemon.restorerows import RestoreTable

    files = find_images(paths, skip=[out], also=JPEG_SUFFIXES)
    places = RestorePlaces(paths, files, out, job.method)
    with ExitStack() as stack:
        opened = [stack.enter_context(RestoreTable(path, force=job.force)) for path in tables]
        stack.enter_context(places.claimed())
        report, stopped = _restore_all(files, job, places, opened, as_json=as_json)
    for one in opened:
        typer.echo(f"{one.rows} rows of {len(files)} files are in {one.path}", err=True)
    if stopped:
        typer.echo(f"stopped: {stopped}. Make room and give the same command: what is done is not done again", err=True)
        return 4
    return 2 if report.all_failed else 0


def _check_defocus(defocus_um: float | None, defocus_sd_um: float | None) -> None:
    import math

    if defocus_sd_um is not None and defocus_um is None:
        raise UsageError("--defocus-sd-um says how far --defocus-um may be wrong, and there is no --defocus-um")
    if defocus_um is not None and not math.isfinite(defocus_um):
        raise UsageError(f"--defocus-um must be a number (got {defocus_um:g})")
    if defocus_sd_um is not None and not 0 <= defocus_sd_um < math.inf:
        raise UsageError(f"--defocus-sd-um must be zero or more (got {defocus_sd_um:g})")


def _restore_all(
    files: list[Path], job: RestoreJob, places: RestorePlaces, tables: list[RestoreTable], *, as_json: bool
) -> tuple[RestoreReport, str]:
    """Restore, send every row where it is wanted, and leave the page and the summary."""
    from parfocal.daemon.restorefiles import FileRestorer
    from parfocal.daemon.restoreprogress import RestoreProgress
    from parfocal.daemon.restorereport import RestoreReport
    from parfocal.daemon.restorerows import row_text

    report = RestoreReport()
    progress = RestoreProgress(len(files), shown=not as_json)

    def seen(row: RestoreRow, look: Callable[[], Layers | None]) -> None:
        progress.see(row)
        report.gallery.see(row, look)

    restorer = FileRestorer(job, places, seen)
    with progress:
        for row in restorer.rows(files):
            report.add(row)
            for table in tables:
                table.add(row)
            if as_json:
                typer.echo(json.dumps(row.to_json(), allow_nan=False))
            elif not tables:
                progress.say(row_text(row))
    _conclude(report, job, places, restorer)
    return report, restorer.stopped


def _conclude(report: RestoreReport, job: RestoreJob, places: RestorePlaces, restorer: FileRestorer) -> None:
    """Write the page, and say on stderr what became of all of them."""
    from rich.console import Console

    from parfocal.daemon.restoreoutput import RestoreOutputError
    from parfocal.daemon.restorereport import reasons, summary

    console = Console(stderr=True)
    try:
        page = report.write(places, job, restorer.notes, restorer.stopped)
        last = f"at a glance: {page}"
    except RestoreOutputError as error:  # the images are there all the same
        last = f"no page: {error}"
    console.print()
    console.print(summary(report))
    for line in [*(f"note: {note}" for note in sorted(restorer.notes)), *reasons(report), last]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _from_config(config: Path | None) -> tuple[PartialOptics, dict[str, object]]:
    """Optics of a configuration's microscope, and the options of its defocus network."""
    from parfocal.daemon.commands.score import from_config

    optics, options = from_config(config)
    return optics, dict(options.get("defocus", {}))
