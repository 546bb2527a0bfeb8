"""Real bad images against real clean ones: which folders they are in, and what is in every set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from parfocal.models.training.fieldfiles import FieldFileError, image_paths, read_array
from parfocal.models.training.fields import SPLITS, load_fields
from parfocal.models.training.quality_light import flattened

log = structlog.get_logger()
Counts = NDArray[Any]
DECONVOLVED = "er_"
BAD_FOLDERS: tuple[tuple[str, str, Callable[[str], bool]], ...] = (
    ("vignetted", "vignetted", lambda name: True),
    ("live, low SNR", "live_low_snr", lambda name: not name.startswith(DECONVOLVED)),
    ("live, low SNR, deconvolved", "live_low_snr", lambda name: name.startswith(DECONVOLVED)),
)
"""Name, folder and which of its files. The second kind of live crops was deconvolved (``iter30L``) before it was
published: dark as it was exposed, it is crisp and has next to no noise left on it."""
NEAR, FAR = "bbbc006/in_focus", "bbbc006/z00_far"
APART = "dsb2018"
"""A source that only rows of its own have among the clean. It was left out when the sets were made, and why was not
written down."""
WITH_APART = f"{APART} among the clean"


@dataclass(frozen=True)
class RealSet:
    """Clean and bad real images; `sources`: how many of the clean ones are of which folder."""

    clean: list[Counts]
    bad: list[Counts]
    sources: Mapping[str, int]


def real_sets(fields: Path | None, stacks: Path | None) -> dict[str, RealSet]:
    """Named pairs of clean and bad real images, of the folders that are there: vignetted, low SNR, far out of focus.

    The clean ones are of the test split, with the uneven light that many fields of one source share taken out: in some
    published sets a fifth of the light is left in the corners, which no honest score calls clean. Where `APART` is
    there, every set is there once more with its fields among the clean.
    """
    sets: dict[str, RealSet] = {}
    sharp = [(NEAR, image) for image in read_images(stacks / NEAR)] if stacks is not None else []
    if fields is not None:
        named = {name: _named(fields / folder, of) for name, folder, of in BAD_FOLDERS}
        clean = _clean(fields) if any(named.values()) else []
        for name, bad in named.items():
            if bad:
                sets[name] = _set([one for one in clean if one[0] != APART] + sharp, bad)
                if any(source == APART for source, _ in clean):
                    sets[f"{name}; {WITH_APART}"] = _set(clean + sharp, bad)
    far = read_images(stacks / FAR) if stacks is not None else []
    if sharp and far:
        sets["far out of focus"] = _set(sharp, far)
    return sets


def why_none(fields: Path | None, stacks: Path | None) -> str:
    """Which folders there would have to be for a set of real images."""
    folders = " or ".join(dict.fromkeys(f"`{folder}`" for _, folder, _ in BAD_FOLDERS))
    of_fields = "not given" if fields is None else "none there"
    of_stacks = "not given" if stacks is None else "not both there"
    return (
        f"No such images. Bad ones are looked for in folders {folders} of --fields ({of_fields}), and in `{FAR}` of "
        f"--stacks, beside `{NEAR}` ({of_stacks})."
    )


def read_images(folder: Path) -> list[Counts]:
    """All 2-D images of a folder, by name; what cannot be read is logged and left out."""
    return [image for _, image in _read(folder)]


def _named(folder: Path, of: Callable[[str], bool]) -> list[Counts]:
    return [image for name, image in _read(folder) if of(name)]


def _read(folder: Path) -> list[tuple[str, Counts]]:
    found = []
    for path in image_paths(folder) if folder.is_dir() else []:
        try:
            image = np.squeeze(read_array(path))
        except FieldFileError as error:
            log.warning("image left out", why=str(error))
            continue
        if image.ndim == 2:
            found.append((path.name, image))
        else:
            log.warning("image left out", why=f"{path}: not one grey plane (shape {image.shape})")
    return found


def _set(clean: list[tuple[str, Counts]], bad: list[Counts]) -> RealSet:
    return RealSet([image for _, image in clean], bad, dict(sorted(Counter(source for source, _ in clean).items())))


def _clean(fields: Path) -> list[tuple[str, Counts]]:
    """Even fields of the test split; how uneven the light of their source is, all its fields tell together."""
    held = [(split, field) for split in SPLITS for field in load_fields(fields, split)]
    even = flattened([field for _, field in held])
    return [
        (field.source, _as_counts(field.image)) for (split, _), field in zip(held, even, strict=True) if split == "test"
    ]


def _as_counts(image: NDArray[np.float32]) -> NDArray[np.uint16]:
    """A field as counts of which none is clipped."""
    return np.round(np.maximum(image, 0.0) * (60_000.0 / max(float(image.max()), 1e-9))).astype(np.uint16)
