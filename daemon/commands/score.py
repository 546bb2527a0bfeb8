"""`parfocal score`: assess image files."""

from __future__ import annotations

import json
import math
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parfocal import UsageError
from parfocal.daemon.commands.run import JsonOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from parfocal.daemon.fileoptics import PartialOptics
    from parfocal.daemon.scorecluster import ClusterScorer
    from parfocal.daemon.scorefiles import FileScorer
    from parfocal.daemon.scoreprogress import Tally
    from parfocal.daemon.scorerows import ScoreJob, ScoreRow
    from parfocal.daemon.scoretable import ScoreTable
    from parfocal.models.base import Assessment


OptionOption = Annotated[
    list[str] | None,
    typer.Option("--option", help="MODEL.KEY=VALUE, for a model, as quality.network=paper; may be repeated."),
]


def score(
    paths: Annotated[list[Path], typer.Argument(help="TIFF, PNG or OME-Zarr, or folders, searched recursively.")],
    model: Annotated[
        list[str] | None, typer.Option("--model", help="defocus (default), sharpness...; may be repeated.")
    ] = None,
    option: OptionOption = None,
    na: Annotated[float | None, typer.Option("--na", help="Numerical aperture.")] = None,
    pixel_um: Annotated[float | None, typer.Option("--pixel-um", help="Pixel at the sample, in um.")] = None,
    emission_nm: Annotated[float | None, typer.Option("--emission-nm", help="Wavelength imaged, in nm.")] = None,
    immersion_index: Annotated[float | None, typer.Option("--immersion-index", help="Air 1.0, water 1.333...")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Optics for files that say nothing.")] = None,
    out: Annotated[
        list[Path] | None, typer.Option("--out", help="Write the rows to FILE.csv or FILE.parquet; may be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that --out names and that is there.")] = False,
    maps: Annotated[Path | None, typer.Option("--maps", help="Folder for patch maps, as pictures and arrays.")] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="Spread the files over a Dask cluster, as tcp://host:8786.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Say what images are worth, a row a plane; optics come from the options, else the file, else --config."""
    from parfocal.daemon.fileoptics import PartialOptics
    from parfocal.daemon.imagefiles import find_images
    from parfocal.daemon.scorerows import ScoreJob
    from parfocal.daemon.scoretable import ScoreTable

    if force and not out:
        raise UsageError("--force is about the file that --out names, and there is no --out")
    given = PartialOptics(na, immersion_index, None if emission_nm is None else emission_nm / 1000.0, pixel_um)
    fallback, options = from_config(config)
    names = tuple(dict.fromkeys(model or ["defocus"]))
    options = _with_told(option or [], names, options, check=scheduler is None)
    job = ScoreJob(names, given, fallback, options, maps=maps is not None)
    if maps is not None:
        _make_folder(maps)
    others: Counter[str] = Counter()
    files = find_images(paths, skip=[maps] if maps is not None else [], others=others)
    with ExitStack() as stack:
        tables = [stack.enter_context(ScoreTable(path, force=force)) for path in dict.fromkeys(out or [])]
        tally = _score_all(files, job, scheduler, tables, maps, as_json=json_)
    _conclude(tally, tables, files, others)
    raise typer.Exit(2 if tally.failed == tally.rows else 0)


def _conclude(tally: Tally, tables: Sequence[ScoreTable], files: Sequence[Path], others: Counter[str]) -> None:
    """Say on stderr where the rows are, what was passed over, and how many failed."""
    from parfocal.daemon.imagefiles import kinds_of

    for table in tables:
        typer.echo(f"{table.rows} rows of {len(files)} files are in {table.path}", err=True)
    count = sum(others.values())
    if count:
        what = "file of another kind" if count == 1 else "files of other kinds"
        typer.echo(f"{count} {what} skipped ({kinds_of(others)})", err=True)
    if tally.failed:
        typer.echo(f"{tally.failed} of {tally.rows} rows could not be assessed; each says why", err=True)


def from_config(config: Path | None) -> tuple[PartialOptics, dict[str, dict[str, object]]]:
    """Optics and options of the models, by name, as a configuration has them; nothing without one."""
    from parfocal.daemon.fileoptics import PartialOptics, optics_of_config

    if config is None:
        return PartialOptics(), {}
    from parfocal.daemon.config import load_config

    loaded = load_config(config)
    return optics_of_config(loaded.microscope.model_dump(mode="json")), loaded.scoring.options


def _with_told(
    texts: Sequence[str], models: Sequence[str], configured: dict[str, dict[str, object]], *, check: bool
) -> dict[str, dict[str, object]]:
    """Options of the models, those of the command line over the configured ones."""
    from parfocal.daemon.scoreoptions import check_options, over, parse_options

    told = parse_options(texts, models)
    options = over(told, configured)
    if check:  # with a cluster, a card or a device may be there on the workers only, who say so themselves
        check_options(told, options)
    return options


def _make_folder(folder: Path) -> None:
    """A folder that cannot be written to is said before the work, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: maps cannot be written here: {error.strerror or error}") from error


def _score_all(
    files: list[Path],
    job: ScoreJob,
    scheduler: str | None,
    tables: Sequence[ScoreTable],
    maps: Path | None,
    *,
    as_json: bool,
) -> Tally:
    """Score, and send every row where it is wanted: to the tables, and to stdout unless there are tables instead."""
    from parfocal.daemon.scorefiles import FileScorer
    from parfocal.daemon.scoreprogress import ScoreProgress

    if scheduler is None:
        scorer: FileScorer | ClusterScorer = FileScorer(job)
    else:
        from parfocal.daemon.scorecluster import ClusterScorer

        scorer = ClusterScorer(job, scheduler)
    progress = ScoreProgress(len(files), shown=not as_json)
    for row in progress.follow(scorer.rows(files)):
        for table in tables:
            table.add(row)
        if maps is not None and row.drawn is not None:
            row.drawn.write(maps)
        if as_json:
            typer.echo(json.dumps(row.to_json(), allow_nan=False))
        elif not tables:
            progress.say(row_text(row))
    for note in sorted(scorer.notes):
        typer.echo(f"note: {note}", err=True)
    return progress.tally


def _measured(said: Assessment) -> str:
    """Write value and sd to the same decimals, and a sign only where the model knows one."""
    if not math.isfinite(said.sd):
        return f"{said.value:.6g}"
    decimals = 1 - math.floor(math.log10(said.sd)) if said.sd > 0 else 3
    if not 0 <= decimals <= 6:
        return f"{said.value:.4g} +- {said.sd:.2g}"
    sign = "+" if said.detail.get("signed") == 1.0 else ""
    return f"{said.value:{sign}.{decimals}f} +- {said.sd:.{decimals}f}"


def row_text(row: ScoreRow) -> str:
    """Put a row into one line for a person: what the model says, and the artefact that most probably is the reason."""
    from parfocal.daemon.viewparts import worst_artefact

    axes = ",".join(f"{name}{at}" for name, at in row.axes.items()) or str(row.plane if row.plane is not None else "-")
    said = row.assessment
    if row.error or said.abstained:
        text = f"{'ERROR' if row.error else 'abstains'}: {said.reason}"
    else:
        unit = f" {row.unit}" if row.unit else ""
        text = f"{_measured(said)}{unit}"
        worst = worst_artefact(said)
        text += f"  {worst[0]} {worst[1]:.2f}" if worst is not None else ""
    return f"{row.path}  {axes}  {row.model}  {text}"
