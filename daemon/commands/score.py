"""`parfocal score`: assess image files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parfocal.daemon.commands.run import JsonOption

if TYPE_CHECKING:
    from parfocal.daemon.fileoptics import PartialOptics
    from parfocal.daemon.scorefiles import ScoreRow
    from parfocal.models.base import Assessment


def score(
    paths: Annotated[list[Path], typer.Argument(help="TIFF, PNG or OME-Zarr, or folders, searched recursively.")],
    model: Annotated[list[str] | None, typer.Option("--model", help="defocus or sharpness; may be repeated.")] = None,
    na: Annotated[float | None, typer.Option("--na", help="Numerical aperture.")] = None,
    pixel_um: Annotated[float | None, typer.Option("--pixel-um", help="Pixel at the sample, in um.")] = None,
    emission_nm: Annotated[float | None, typer.Option("--emission-nm", help="Wavelength imaged, in nm.")] = None,
    immersion_index: Annotated[float | None, typer.Option("--immersion-index", help="Air 1.0, water 1.333...")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Optics for files that say nothing.")] = None,
    maps: Annotated[Path | None, typer.Option("--maps", help="Folder for patch maps drawn over the planes.")] = None,
    json_: JsonOption = False,
) -> None:
    """Say of every plane how far from focus it is; optics come from the options, else the file, else --config."""
    from parfocal.daemon.fileoptics import PartialOptics, optics_of_config
    from parfocal.daemon.imagefiles import find_images

    given = PartialOptics(na, immersion_index, None if emission_nm is None else emission_nm / 1000.0, pixel_um)
    fallback, options = PartialOptics(), {}
    if config is not None:
        from parfocal.daemon.config import load_config

        loaded = load_config(config)
        fallback = optics_of_config(loaded.microscope.model_dump(mode="json"))
        options = loaded.scoring.options
    files = find_images(paths)
    failed, done = _score_all(files, model or ["defocus"], given, fallback, options, maps, as_json=json_)
    if failed:
        typer.echo(f"{failed} of {failed + done} rows could not be assessed; each says why", err=True)
    raise typer.Exit(2 if failed and not done else 0)


def _score_all(
    files: list[Path],
    models: list[str],
    given: PartialOptics,
    fallback: PartialOptics,
    options: dict[str, dict[str, object]],
    maps: Path | None,
    *,
    as_json: bool,
) -> tuple[int, int]:
    from parfocal.daemon.overlays import write_overlay
    from parfocal.daemon.scorefiles import FileScorer

    scorer = FileScorer(models, given, fallback, options)
    failed = done = 0
    for row in scorer.rows(files):
        failed, done = failed + bool(row.error), done + (not row.error)
        typer.echo(json.dumps(row.to_json(), allow_nan=False) if as_json else row_text(row))
        if maps is not None:
            write_overlay(row, maps)
    for note in sorted(scorer.notes):
        typer.echo(f"note: {note}", err=True)
    return failed, done


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
    """Put a row into one line for a person."""
    axes = ",".join(f"{name}{at}" for name, at in row.axes.items()) or str(row.plane if row.plane is not None else "-")
    said = row.assessment
    if row.error or said.abstained:
        text = f"{'ERROR' if row.error else 'abstains'}: {said.reason}"
    else:
        unit = f" {row.unit}" if row.unit else ""
        text = f"{_measured(said)}{unit}"
    return f"{row.path}  {axes}  {row.model}  {text}"
