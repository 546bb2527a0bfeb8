"""Defocus of every image in a folder, from Python: the model of `parfocal score` without the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import tifffile

from parfocal.models import make_model

OPTICS = {"na": 0.75, "immersion_index": 1.0, "emission_um": 0.52}
PIXEL_UM = 0.325


def main(folder: Path) -> None:
    """Print one line an image: defocus in um with its standard deviation, or why there is none."""
    model = make_model("defocus", OPTICS)
    for path in sorted(folder.glob("*.tif")):
        (said,) = model.assess(tifffile.imread(path)[None], PIXEL_UM)
        text = f"abstains: {said.reason}" if said.abstained else f"{said.value:.2f} +- {said.sd:.2f} um"
        print(f"{path.name}  {text}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
