"""Reference mode against miplib: its numbers as they were frozen, and miplib itself where it can be imported.

docs/decisions/0015-frc.md says how to get it. ``python tests/models/test_frc_peer.py`` then freezes its numbers again.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from parfocal.daemon.bench_frc import agreement, field_images, miplib_peer, specimens, times
from parfocal.models.metrics.frc import single_image_frc

FROZEN = Path(__file__).with_name("frc_miplib.json")
SHAPES = ((128, 128), (128, 96), (160, 160), (127, 127))
ROUNDS, PEAKS = (0, 1, 2, 4), (30, 100, 300, 1000)


def images() -> dict[str, NDArray[np.uint16]]:
    """Discs, threads and grains, blurred, on a noisy camera; and two without light or noise.

    In whole numbers throughout, from a generator whose stream NumPy keeps for ever: the same bits on every machine.
    """
    made: dict[str, NDArray[np.uint16]] = {}
    for number in range(20):
        kind = ("discs", "threads", "grains")[number % 3]
        shape, rounds, peak = SHAPES[number % 4], ROUNDS[number // 2 % 4], PEAKS[number // 3 % 4]
        random = np.random.RandomState(100 + number)
        light = blurred(drawn(kind, shape, random), rounds) * peak // 256
        name = f"{number:02d} {kind} {shape[0]}x{shape[1]}, {rounds} rounds of blur, peak {peak}"
        made[name] = exposed(light, random)
    random = np.random.RandomState(99)
    made["20 grains without noise"] = (100 + blurred(drawn("grains", (128, 128), random), 2)).astype(np.uint16)
    made["21 noise alone"] = exposed(np.full((128, 128), 50, np.int64), random)
    return made


def drawn(kind: str, shape: tuple[int, int], random: np.random.RandomState) -> NDArray[np.int64]:
    image = np.zeros(shape, np.int64)
    y, x = np.mgrid[: shape[0], : shape[1]]
    if kind == "grains":
        image[random.randint(0, shape[0], 300), random.randint(0, shape[1], 300)] = 256
    for _ in range(0 if kind == "grains" else 12):
        row, column, radius = random.randint(0, shape[0]), random.randint(0, shape[1]), random.randint(3, 12)
        if kind == "discs":
            image[(y - row) ** 2 + (x - column) ** 2 < radius**2] = random.randint(100, 257)
        else:
            steps = random.randint(-1, 2, (2, 200)).cumsum(axis=1)
            image[(row + steps[0]) % shape[0], (column + steps[1] + np.arange(200) // 2) % shape[1]] = 256
    return image


def blurred(image: NDArray[np.int64], rounds: int) -> NDArray[np.int64]:
    """Means over 3x3 px, so often."""
    image = image * 16
    for _ in range(rounds):
        for axis in (0, 1):
            image = (np.roll(image, 1, axis) + image + np.roll(image, -1, axis)) // 3
    return image // 16


def exposed(light: NDArray[np.int64], random: np.random.RandomState) -> NDArray[np.uint16]:
    """With an offset, and nearly normal noise (a sum of 12 even ones), its variance the light and some read-out."""
    root = np.array([math.isqrt(int(value) * 256 + 1024) for value in light.ravel()]).reshape(light.shape)  # 1/16
    even = random.randint(0, 4096, (12, *light.shape)).sum(axis=0) - 12 * 4095 // 2
    counts: NDArray[np.uint16] = np.clip(100 + light + even * root // (16 * 4096), 0, 65535).astype(np.uint16)
    return counts


def digest(image: NDArray[np.uint16]) -> str:
    return hashlib.sha256(repr(image.shape).encode() + image.astype("<u2").tobytes()).hexdigest()


def test_reference_mode_gives_the_numbers_that_miplib_gave() -> None:
    frozen = json.loads(FROZEN.read_text(encoding="utf-8"))["images"]
    made = images()
    assert list(made) == list(frozen)
    assert sum(one["resolution_px"] is not None for one in frozen.values()) >= 12
    for name, one in frozen.items():
        assert digest(made[name]) == one["sha256"], f"{name}: not the image that miplib was shown"
        if one["resolution_px"] is None:
            assert math.isnan(ours(made[name])), name
        else:
            assert ours(made[name]) == pytest.approx(one["resolution_px"], rel=1e-6), name


def freeze() -> None:
    """Write what miplib says of the images."""
    peer = miplib_peer()
    if peer is None:
        raise SystemExit("miplib is not here: docs/decisions/0015-frc.md says how to get it")
    said = {name: (digest(image), peer(image)) for name, image in images().items()}
    packages = {name: version(name) for name in ("numpy", "scipy")}
    facts = {
        "made_by": "python tests/models/test_frc_peer.py",
        "what": "resolution in px by single-image FRC with miplib's defaults; null where it raises",
        "with": {"miplib": "1.0.6", "python": platform.python_version(), **packages},
        "images": {
            name: {"sha256": sha, "resolution_px": None if math.isnan(px) else px} for name, (sha, px) in said.items()
        },
    }
    FROZEN.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def test_miplib_gives_the_same_numbers() -> None:
    peer = miplib_peer()
    if peer is None:
        pytest.skip("miplib is not here; tests/models/test_frc.py compares with its method instead")
    row = agreement(specimens(24, seed=3, side_px=128), peer, "specimens")
    assert row["only one does"] == 0
    assert row["equal to 1e-6"] == row["miplib gives a number"] > 12
    frozen = json.loads(FROZEN.read_text(encoding="utf-8"))["images"]
    for name, image in images().items():
        said = frozen[name]["resolution_px"]
        assert peer(image) == pytest.approx(math.nan if said is None else said, rel=1e-6, nan_ok=True), name


def ours(image: NDArray[Any]) -> float:
    return float(single_image_frc(image, mode="reference").resolution_px[0])


def test_a_peer_that_differs_is_seen() -> None:
    images = list(specimens(6, seed=1, side_px=96))
    same = agreement(iter(images), ours, "same")
    assert same["largest relative difference"] == 0.0
    assert same["equal to 1e-6"] == same["miplib gives a number"] > 3
    off = agreement(iter(images), lambda image: ours(image) * (1 + 1e-5), "off")
    assert off["equal to 1e-6"] == 0
    assert off["largest relative difference"] == pytest.approx(1e-5, rel=1e-3)
    silent = agreement(iter(images), lambda _: float("nan"), "silent")
    assert silent["only one does"] == silent["reference gives a number"]


def test_specimens_are_seeded_and_of_many_kinds() -> None:
    once, again = (np.stack(list(specimens(8, seed=2, side_px=64))) for _ in range(2))
    assert np.array_equal(once, again)
    assert len({image.tobytes() for image in once}) == 8


def test_fields_are_read_from_a_folder(tmp_path: Path) -> None:
    for index in range(4):
        tifffile.imwrite(tmp_path / f"{index}.tif", np.full((40, 40), index, np.uint16))
    tifffile.imwrite(tmp_path / "9.tif", np.zeros((40, 40, 3), np.uint8), photometric="rgb")
    assert [int(image[0, 0]) for image in field_images(tmp_path, 10)] == [0, 1, 2, 3]


def test_times_compare_with_the_peer() -> None:
    rows = times(0, ours, repeats=2, side_px=96)
    assert rows[0]["what"] == "miplib"
    assert all(row["ms median"] > 0 and row["times faster, median"] > 0 for row in rows)
    assert "times faster, median" in times(0, None, repeats=1, side_px=64)[0]


if __name__ == "__main__":
    freeze()
