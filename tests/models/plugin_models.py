"""Models that misbehave on demand, offered to parfocal as a plugin would be: an installed distribution on the path."""

from __future__ import annotations

from pathlib import Path

SOURCE = '''
import os, signal, sys, time
import numpy as np
from parfocal.models.base import Assessment, Distribution, ImageError, ModelCard, ModelError, PatchMap

CARD = ModelCard("obedient", "1", "none", "none", "0" * 64)


class Obedient:
    """Does what the first pixel says."""

    def __init__(self, options):
        self.card = CARD
        self.options = options
        self.kept = []

    def describe(self):
        return {"threads": os.environ.get("OMP_NUM_THREADS"), "pid": os.getpid()}

    def assess(self, images, pixel_um):
        order = int(images[0, 0, 0])
        if order == 61001:
            raise ValueError("told to raise")
        if order == 61002:
            os.kill(os.getpid(), signal.SIGKILL)
        if order == 61003:
            time.sleep(60)
        if order == 61004:
            raise ImageError("an image I cannot take")
        if order == 61005:
            return "not a list"
        if order == 61006:
            self.kept.append(images)
        if order == 61007:
            sys.exit(3)
        if order == 61008:
            images[0, 0, 0] = 1
        if order == 61009:
            print("noise on stdout", flush=True)
        mean = float(images.mean(dtype=np.float64))
        detail = {"pixel_um": pixel_um, "wide": images.shape[2], "high": images.shape[1], "order": order}
        grid = np.linspace(-5, 5, 41)
        mass = np.exp(-grid**2); mass /= mass.sum()
        maps = PatchMap(np.full((2, 3), mean, np.float32), np.full((2, 3), np.nan), 64, 32, "um")
        return [Assessment("obedient", mean, 0.5, detail=detail, distribution=Distribution(grid, mass), patch_map=maps)]


def make(options):
    return Obedient(options)


def broken(options):
    raise ModelError("these weights are of no use")


def dying(options):
    os._exit(7)


def stuck(options):
    time.sleep(60)


def useless(options):
    return object()


def quick(options):
    class Quick:
        card = CARD
        answer = [Assessment("quick", 1.0, 0.1)]
        def assess(self, images, pixel_um):
            return self.answer
    return Quick()
'''

ENTRY_POINTS = """[parfocal.models]
obedient = parfocal_plugin_for_tests:make
broken = parfocal_plugin_for_tests:broken
dying = parfocal_plugin_for_tests:dying
stuck = parfocal_plugin_for_tests:stuck
useless = parfocal_plugin_for_tests:useless
quick = parfocal_plugin_for_tests:quick
unimportable = parfocal_plugin_that_is_not_there:make
"""


def install(folder: Path) -> Path:
    """Write the distribution into a folder that is to be put on `sys.path`."""
    (folder / "parfocal_plugin_for_tests.py").write_text(SOURCE)
    info = folder / "parfocal_plugin_for_tests-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parfocal-plugin-for-tests\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder
