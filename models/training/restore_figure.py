"""A picture of restoring: raw frame, methods, truth and uncertainty, of specimens drawn and not photographed."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from parfocal.models.restore.base import Restoration, Verdict, cells_of
from parfocal.models.restore.gate import spread
from parfocal.models.training.evaluate_restore import IDENTITY, Peers, attempt, blur_or_reason, estimator
from parfocal.models.training.restore_cases import COMMON_OPTICS, MARGIN_PX, RestoreCase, Sample, cases
from parfocal.models.training.restore_measures import likeness, truth_span
from parfocal.simulator.specimens import make_specimen

PANEL_PX, GAP_PX, TITLE_PX, CAPTION_PX, SIDE_PX = 256, 6, 26, 36, 192
SHOWN = (("nuclei", 1, 3.0, 2000.0), ("filaments", 1, 2.0, 200.0), ("mitochondria", 1, 3.0, 2000.0),
         ("nuclei", 1, 14.0, 2000.0))  # fmt: skip
"""Specimen, objective of `COMMON_OPTICS`, depths of field, photons; the last is beyond recovery, to show a refusal."""
NAMES = {"wiener": "Wiener", "richardson_lucy": "Richardson-Lucy", "unet": "U-Net", "comi": "CycleGAN (COMI)"}
HEAT = np.asarray([(8, 8, 20), (80, 20, 90), (190, 55, 75), (245, 140, 50), (252, 250, 190)], dtype=np.float64)
SD_SHARE = 0.1
"""Of the truth's range: the brightest colour of the uncertainty."""
TINT, TINT_LIGHT = (0.85, 0.62, 0.3), 40.0
Panel = tuple[NDArray[np.uint8], str]


def figure(peers: Peers, *, seed: int) -> Image.Image:
    """Draw the specimens of `SHOWN`, a row each; methods without weights are left out.

    Every row has one grey scale, that of its truth, and shows the square root of the light, or what is dim could not be
    seen. Where a method was refused, its panel is tinted. The caption is the PSNR against the truth, or the verdict.
    """
    methods = [name for name in peers.here if name != IDENTITY]
    titles = ["out of focus", *(NAMES.get(name, name) for name in methods), "truth, in focus", "stated uncertainty"]
    estimate = estimator()
    rows = []
    for number, (kind, objective, depths, photons) in enumerate(SHOWN):
        case = _case(kind, objective, depths, photons, seed=seed + number)
        known = blur_or_reason(case.frame, case.optics, estimate)
        rows.append(_row(case, {name: attempt(one, case.frame, *known) for name, one in peers.here.items()}))
    return _drawn(titles, rows)


def _case(kind: str, objective: int, depths: float, photons: float, *, seed: int) -> RestoreCase:
    optics, side = COMMON_OPTICS[objective], SIDE_PX + 2 * MARGIN_PX
    specimen = make_specimen(kind, (side, side), pixel_um=optics.pixel_um, seed=seed)
    (case,) = cases([Sample(specimen, optics, kind, 0)], seed=seed, depths=(depths,), photons=(photons,))
    return case


def _row(case: RestoreCase, results: Mapping[str, Restoration]) -> list[Panel]:
    alike = likeness({name: one.pixels for name, one in results.items()}, case.truth)
    raw = f"{case.kind}, {case.depths:g} depths of field\n{case.photons:g} photons, {alike[IDENTITY]['psnr']:.1f} dB"
    panels = [(_grey(case.frame, case.truth), raw)]
    for name, one in results.items():
        if name != IDENTITY:
            caption = f"{alike[name]['psnr']:.1f} dB" if one.verdict is Verdict.RESTORED else _verdict(one)
            panels.append((_tinted(_grey(one.pixels, case.truth), one), caption))
    panels.append((_grey(case.truth, case.truth), ""))
    return [*panels, _uncertainty(case, results.values())]


def _verdict(one: Restoration) -> str:
    """The verdict and the beginning of its reason, in two lines at most."""
    words = textwrap.wrap(f"{one.verdict.replace('_', ' ')}: {one.reason}", 42)
    return "\n".join(words[:2]) + (" ..." if len(words) > 2 else "")


def _uncertainty(case: RestoreCase, results: Any) -> Panel:
    """The map of the method that states one."""
    stated = next((one.sd for one in results if one.sd is not None), None)
    if stated is None:
        return np.full((*case.truth.shape, 3), 24, dtype=np.uint8), "none stated"
    at = np.clip(stated / (SD_SHARE * truth_span(case.truth)), 0.0, 1.0) * (len(HEAT) - 1)
    low = np.minimum(at.astype(int), len(HEAT) - 2)
    colour = HEAT[low] + (at - low)[..., None] * (HEAT[low + 1] - HEAT[low])
    return colour.astype(np.uint8), f"sd, 0 (dark) to {100 * SD_SHARE:g} % of the truth's range"


def _tinted(panel: NDArray[np.uint8], one: Restoration) -> NDArray[np.uint8]:
    """Where the pixels are the frame's own."""
    refused = (
        one.refused
        if one.verdict is Verdict.RESTORED
        else np.ones(cells_of((one.pixels.shape[0], one.pixels.shape[1])), dtype=bool)
    )
    where = spread(refused, one.pixels.shape)[..., None]
    return np.asarray(np.where(where, panel * np.asarray(TINT) + TINT_LIGHT * np.asarray(TINT), panel), dtype=np.uint8)


def _grey(image: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = np.percentile(truth, (0.5, 99.8))
    grey = np.clip((np.asarray(image, dtype=np.float64) - low) / max(high - low, 1e-9), 0.0, 1.0) * 255.0
    return np.repeat(np.sqrt(grey[..., None] * 255.0), 3, axis=2).astype(np.uint8)


def _drawn(titles: Sequence[str], rows: Sequence[Sequence[Panel]]) -> Image.Image:
    """Panels in rows under their titles, captions below."""
    step, row_step = PANEL_PX + GAP_PX, PANEL_PX + CAPTION_PX + GAP_PX
    picture = Image.new("RGB", (GAP_PX + step * len(titles), TITLE_PX + row_step * len(rows)), "white")
    draw, bold, small = ImageDraw.Draw(picture), ImageFont.load_default(16), ImageFont.load_default(12)
    for column, title in enumerate(titles):
        draw.text((GAP_PX + step * column + PANEL_PX / 2, TITLE_PX / 2), title, fill="black", font=bold, anchor="mm")
    for number, row in enumerate(rows):
        top = TITLE_PX + row_step * number
        for column, (pixels, caption) in enumerate(row):
            panel = Image.fromarray(pixels).resize((PANEL_PX, PANEL_PX), Image.Resampling.NEAREST)
            picture.paste(panel, (GAP_PX + step * column, top))
            draw.multiline_text((GAP_PX + step * column, top + PANEL_PX + 3), caption, fill="black", font=small)
    return picture
