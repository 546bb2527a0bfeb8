"""What is labelled: actin rings on axons, filaments, clusters, synapses; molecules are placed one by one.

Each kind has its own length to resolve: rings stand 190 nm apart, filaments are 60 nm wide and cross, clusters come in
pairs 70 to 150 nm apart, synapses have nanodomains some 80 nm wide. All lie in the focal plane.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parfocal import UsageError, did_you_mean

RealArray = NDArray[np.float64]
Points = tuple[RealArray, RealArray]  # y and x in um

RING_SPACING_UM = 0.19
_UNSPECIFIC_PER_UM2 = 12.0  # stray label between the structures


@dataclass(frozen=True)
class _Scene:
    """The area to fill, in um, and how densely; `rng` is where everything in it comes from."""

    height_um: float
    width_um: float
    density: float
    rng: np.random.Generator

    @property
    def area_um2(self) -> float:
        return self.height_um * self.width_um

    def places(self, count: int) -> list[tuple[float, float]]:
        """Places all over the scene, each in a cell of its own, so that no field is empty by chance."""
        side = max(1, int(np.ceil(np.sqrt(count))))
        cells = self.rng.permutation(side * side)[:count]
        y = (cells // side + self.rng.random(count)) * self.height_um / side
        x = (cells % side + self.rng.random(count)) * self.width_um / side
        return [(float(row), float(column)) for row, column in zip(y, x, strict=True)]

    def number(self, mean: float) -> int:
        return int(self.rng.poisson(mean * self.density))


def make_structure(
    kind: str, shape: tuple[int, int], *, pixel_um: float, seed: int, density: float = 1.0
) -> NDArray[np.int32]:
    """Draw a labelled structure.

    Parameters
    ----------
    kind : str
        One of `STRUCTURES`.
    shape : (height, width)
        In pixels.
    pixel_um : float
    seed : int
    density : float
        How densely it is labelled; 1 is a good preparation.

    Returns
    -------
    ndarray of int32, shape (height, width)
        Fluorescent molecules in each pixel.

    Raises
    ------
    UsageError
        There is no such structure, or a number makes no sense.
    """
    if kind not in _DRAW:
        raise UsageError(f"there is no structure {kind!r}{did_you_mean(kind, STRUCTURES)}; there are {_LIST}")
    if not (pixel_um > 0 and 0 <= density < 1000 and min(shape) > 0):
        raise UsageError(
            f"structure {kind}: pixel_um must be positive and density zero or more (got {pixel_um!r}, {density!r})"
        )
    scene = _Scene(shape[0] * pixel_um, shape[1] * pixel_um, density, np.random.default_rng(seed))
    canvas = np.zeros(shape, dtype=np.int32)
    for y, x in _DRAW[kind](scene):
        _add(canvas, y / pixel_um, x / pixel_um)
    return canvas


def _add(canvas: NDArray[np.int32], y: RealArray, x: RealArray) -> None:
    row, column = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
    inside = (row >= 0) & (row < canvas.shape[0]) & (column >= 0) & (column < canvas.shape[1])
    flat = row[inside] * canvas.shape[1] + column[inside]
    canvas += np.bincount(flat, minlength=canvas.size).reshape(canvas.shape).astype(np.int32)


def _unspecific(scene: _Scene) -> Points:
    count = scene.number(_UNSPECIFIC_PER_UM2 * scene.area_um2)
    return scene.rng.uniform(0, scene.height_um, count), scene.rng.uniform(0, scene.width_um, count)


@dataclass(frozen=True)
class _Curve:
    """A smooth line through the scene, with its length along it."""

    y: RealArray
    x: RealArray
    heading: RealArray
    step_um: float

    @property
    def length_um(self) -> float:
        return self.step_um * (self.y.size - 1)

    def points(self, along: RealArray, across: RealArray) -> Points:
        """Points at a distance along the curve and to its side; what lies beyond the ends is left out."""
        inside = (along >= 0) & (along <= self.length_um)
        along, across = along[inside], across[inside]
        grid = np.arange(self.y.size) * self.step_um
        heading = np.interp(along, grid, self.heading)
        y, x = np.interp(along, grid, self.y), np.interp(along, grid, self.x)
        return y + across * np.cos(heading), x - across * np.sin(heading)


def _curve(scene: _Scene, through: tuple[float, float], heading: float, stiff_um: float) -> _Curve:
    """Grow a worm-like line to both sides of a place until it must have left the scene."""
    step = 0.02
    steps = int(1.1 * (scene.height_um + scene.width_um) / step)
    halves = []
    for side in (1.0, -1.0):
        # The turning rate itself wanders, so the line bends smoothly rather than at every step.
        bend = np.cumsum(scene.rng.normal(0.0, 1.0, steps)) * np.exp(-np.arange(steps) * step / 20.0)
        turned = side * np.cumsum(bend) * step * np.sqrt(step) * 2.0 / stiff_um
        angle = heading + turned + (np.pi if side < 0 else 0.0)
        y = through[0] + np.concatenate([[0.0], np.cumsum(np.sin(angle)) * step])
        x = through[1] + np.concatenate([[0.0], np.cumsum(np.cos(angle)) * step])
        halves.append((y, x, np.concatenate([[heading], heading + turned])))
    ahead, behind = halves
    y, x, heading_all = (np.concatenate([back[:0:-1], front]) for back, front in zip(behind, ahead, strict=True))
    near = _NEAR_UM
    inside = (y > -near) & (y < scene.height_um + near) & (x > -near) & (x < scene.width_um + near)
    seen = np.flatnonzero(inside)
    kept = slice(int(seen[0]), int(seen[-1]) + 1)  # what lies far outside needs no molecules
    return _Curve(y[kept], x[kept], heading_all[kept], step)


_NEAR_UM = 0.3  # wider than anything around a curve


def _actin_rings(scene: _Scene) -> list[Points]:
    """Axons with the membrane's periodic skeleton (Xu, Zhong and Zhuang 2013), hot spots of actin, and a few fibres."""
    rng = scene.rng
    found = [_unspecific(scene)]
    count = max(1, round(float(rng.normal(0.48, 0.1)) * np.sqrt(scene.area_um2)))
    main = rng.uniform(0, np.pi)
    for number in range(count):
        # Axons run side by side, more or less, and keep a distance from each other.
        shift = (number + rng.uniform(0.25, 0.75)) / count - 0.5
        reach = 0.9 * min(scene.height_um, scene.width_um) * shift
        through = (
            scene.height_um / 2 + reach * np.cos(main) + rng.normal(0, 0.1),
            scene.width_um / 2 - reach * np.sin(main) + rng.normal(0, 0.1),
        )
        curve = _curve(scene, through, main + rng.normal(0, 0.2), 12.0)
        found += _axon(scene, curve, float(rng.uniform(0.1, 0.2)))
    return found


def _axon(scene: _Scene, curve: _Curve, radius_um: float) -> list[Points]:
    rng = scene.rng
    rings = np.arange(rng.uniform(0, RING_SPACING_UM), curve.length_um, RING_SPACING_UM)
    rings += rng.normal(0, 0.008, rings.size)
    # Labelling varies from ring to ring, and over stretches of some half a micrometre; a few rings are missing.
    strength = rng.gamma(5.0, 1 / 5.0, rings.size) * _stretches(rng, rings.size) * (rng.random(rings.size) > 0.06)
    numbers = rng.poisson(_RING_MOLECULES * (radius_um / 0.15) * scene.density * strength)
    along = np.repeat(rings, numbers) + rng.normal(0, 0.014, numbers.sum())
    parts = [curve.points(along, radius_um * np.cos(rng.uniform(0, 2 * np.pi, along.size)))]
    # Between the rings: cortical actin, evenly on the tube.
    between = scene.number(0.18 * _RING_MOLECULES * (radius_um / 0.15) * rings.size)
    parts.append(
        curve.points(rng.uniform(0, curve.length_um, between), radius_um * np.cos(rng.uniform(0, 2 * np.pi, between)))
    )
    for _ in range(scene.rng.poisson(0.22 * curve.length_um)):
        size = scene.number(rng.lognormal(np.log(2.4), 0.8) * _RING_MOLECULES)
        centre, side = rng.uniform(0, curve.length_um), rng.uniform(-0.7, 0.7) * radius_um
        parts.append(curve.points(centre + rng.normal(0, 0.035, size), side + rng.normal(0, 0.035, size)))
    return parts


_RING_MOLECULES = 540.0  # on a ring of usual size


def _stretches(rng: np.random.Generator, count: int) -> RealArray:
    """Slowly varying factors around 1."""
    walk = rng.normal(0, 1, count + 8)
    smooth = np.convolve(walk, np.ones(5) / np.sqrt(5), mode="valid")[:count]
    return np.asarray(np.exp(0.25 * smooth - 0.03))


def _filaments(scene: _Scene) -> list[Points]:
    """Microtubules with their antibodies: long, stiff, 60 nm wide, crossing at all angles."""
    rng = scene.rng
    found = [_unspecific(scene)]
    main, spread = rng.uniform(0, np.pi), rng.uniform(0.25, 0.9)
    for place in scene.places(max(2, int(rng.poisson(1.5 * np.sqrt(scene.area_um2))))):
        curve = _curve(scene, place, main + rng.normal(0, spread), 9.0)
        count = scene.number(_FILAMENT_PER_UM * curve.length_um * rng.lognormal(0.0, 0.15))
        along = rng.uniform(0, curve.length_um, count)
        # Label sits in a shell around the tube; gaps where it did not bind.
        gaps = 0.5 * (1 + np.tanh(3.0 * (1.1 + _wave(rng, along))))
        kept = rng.random(count) < gaps
        across = 0.025 * np.cos(rng.uniform(0, 2 * np.pi, count)) + rng.normal(0, 0.008, count)
        found.append(curve.points(along[kept], across[kept]))
    return found


_FILAMENT_PER_UM = 1500.0


def _wave(rng: np.random.Generator, along: RealArray) -> RealArray:
    """Random undulation along a line, about unit variance."""
    total = np.zeros_like(along)
    for _ in range(6):
        total += np.sin(2 * np.pi * along / rng.uniform(0.3, 2.0) + rng.uniform(0, 2 * np.pi))
    return np.asarray(total / np.sqrt(3.0))


def _clusters(scene: _Scene) -> list[Points]:
    """Protein clusters of 30 to 80 nm, lognormal in size; a third of them has a near neighbour."""
    rng = scene.rng
    found = [_unspecific(scene)]
    for y, x in scene.places(max(3, int(rng.poisson(3.2 * scene.area_um2)))):
        places = [(y, x)]
        if rng.random() < 0.35:
            angle, apart = rng.uniform(0, 2 * np.pi), rng.uniform(0.07, 0.15)
            places.append((y + apart * np.sin(angle), x + apart * np.cos(angle)))
        for place in places:
            found.append(_blob(scene, place, _CLUSTER_MOLECULES * rng.lognormal(0.0, 0.45), rng.uniform(0.013, 0.034)))
    return found


_CLUSTER_MOLECULES = 260.0


def _blob(scene: _Scene, place: tuple[float, float], mean: float, sigma_um: float) -> Points:
    count = scene.number(mean)
    return place[0] + scene.rng.normal(0, sigma_um, count), place[1] + scene.rng.normal(0, sigma_um, count)


def _synapses(scene: _Scene) -> list[Points]:
    """Postsynaptic scaffolds: bent bars seen from the side, or plates from above, made of nanodomains."""
    rng = scene.rng
    found = [_unspecific(scene)]
    for y, x in scene.places(max(2, int(rng.poisson(1.5 * scene.area_um2)))):
        angle, length = rng.uniform(0, np.pi), rng.uniform(0.22, 0.5)
        # From the side a scaffold is thin, from above nearly as wide as long.
        wide = length * (0.08 if rng.random() < 0.65 else rng.uniform(0.5, 0.9))
        bend = rng.normal(0, 0.5)
        molecules = _SYNAPSE_MOLECULES * rng.lognormal(0.0, 0.3) * length / 0.35
        domains = int(rng.integers(2, 6))
        along = rng.uniform(-0.5, 0.5, domains) * length
        across = rng.uniform(-0.5, 0.5, domains) * wide
        chosen = rng.integers(0, domains, scene.number(0.7 * molecules))
        loose = scene.number(0.3 * molecules)
        s = np.concatenate([along[chosen] + rng.normal(0, 0.03, chosen.size), rng.uniform(-0.5, 0.5, loose) * length])
        d = np.concatenate([across[chosen] + rng.normal(0, 0.018, chosen.size), rng.uniform(-0.5, 0.5, loose) * wide])
        d = d + bend * s**2 / length
        found.append((y + s * np.sin(angle) + d * np.cos(angle), x + s * np.cos(angle) - d * np.sin(angle)))
    return found


_SYNAPSE_MOLECULES = 900.0


def _empty(scene: _Scene) -> list[Points]:
    """Stray label only: there is nothing to tune on."""
    return [_unspecific(scene)]


_DRAW: Mapping[str, Callable[[_Scene], list[Points]]] = {
    "actin_rings": _actin_rings,
    "filaments": _filaments,
    "clusters": _clusters,
    "synapses": _synapses,
    "empty": _empty,
}
STRUCTURES: tuple[str, ...] = tuple(_DRAW)
_LIST = ", ".join(STRUCTURES)
