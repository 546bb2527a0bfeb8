"""The tables of STED quality: networks and simple peers on specimens, dyes and kinds that none has learned from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from parfocal.models.base import Assessment, Model
from parfocal.models.cards import load_card
from parfocal.models.sted_measures import StedMeasures
from parfocal.models.sted_quality import StedQualityModel
from parfocal.models.sted_quality_net import NETWORKS
from parfocal.models.training.sted_quality_data import HELD_OUT, Chunk, StedSource, joined, make_chunk
from parfocal.models.training.sted_quality_recipe import StedRecipe
from parfocal.models.training.train_sted_quality import TEST_SEED, source
from parfocal.simulator.sted import DYES

FIFTHS = 5
BAD, TOO_GOOD = 0.2, 0.4
A_CHUNK, MOST_CHUNKS = 72, 40
RIDGE_FRAMES, RIDGE_PENALTY = 360, 1.0
KNOWN = ("actin_rings", "filaments", "clusters", "empty")
Array = NDArray[np.float64]
Score = Callable[[Chunk], tuple[Array, Array]]
"""Values and standard deviations of a chunk's frames; NaN where there is none."""


def held_out_sources(seed: int) -> dict[str, StedSource]:
    """What the rows are measured on: unseen specimens in every one, and unseen dyes; kinds and sizes as they say."""
    base = StedSource(seed + TEST_SEED, KNOWN, structures=16, specimens=1)
    named = tuple(DYES)
    return {
        "new specimens, new random dyes": base,
        "new specimens, the named dyes": replace(base, seed=base.seed + 1, dyes=named),
        f"a kind never seen ({HELD_OUT[0]}), random dyes": replace(base, seed=base.seed + 2, kinds=HELD_OUT),
        f"a kind never seen ({HELD_OUT[0]}), the named dyes": replace(
            base, seed=base.seed + 3, kinds=HELD_OUT, dyes=named
        ),
        "frames of 128 px, random dyes": replace(base, seed=base.seed + 4, size_px=128),
    }


def balanced(truth: Array, per_fifth: int) -> NDArray[np.intp]:
    """The first so many frames of every fifth of the range of quality, in order."""
    kept = [np.flatnonzero(fifth_of(truth) == number)[:per_fifth] for number in range(FIFTHS)]
    return np.sort(np.concatenate(kept))


def held_out_frames(of: StedSource, per_fifth: int) -> Chunk:
    """Frames of a source until every fifth of the range of quality holds so many, or `MOST_CHUNKS` are made."""
    parts: list[Chunk] = []
    for number in range(MOST_CHUNKS):
        parts.append(make_chunk(of, number, A_CHUNK))
        held = fifth_of(np.concatenate([part["quality"] for part in parts]))
        if np.bincount(held, minlength=FIFTHS).min() >= per_fifth:
            break
    return joined(parts)


def fifth_of(truth: NDArray[Any]) -> NDArray[np.int64]:
    """Which fifth of the range each value lies in."""
    return np.minimum((np.asarray(truth) * FIFTHS).astype(np.int64), FIFTHS - 1)


def row(truth: Array, value: Array, sd: Array, per_fifth: int) -> dict[str, Any]:
    """What a peer's values are worth.

    Returns
    -------
    dict
        ``spearman``, on as many frames of every fifth; ``mae``, mean absolute error by fifth, on all frames;
        ``bad_above``, share of the bad frames (truth below 0.2) scored above 0.4, and ``bad_worst``, the highest score
        of one; ``within``, shares of errors within one and two sd (None without an sd); ``frames``, how many.
    """
    fifth, error = fifth_of(truth), np.abs(value - truth)
    some = balanced(truth, per_fifth)
    bad = value[truth < BAD]
    spread = None if not np.isfinite(sd).all() else [round(float(np.mean(error <= k * sd)), 3) for k in (1, 2)]
    return {
        "frames": len(truth),
        "spearman": round(float(spearmanr(value[some], truth[some]).statistic), 4),
        "mae": [_mean(error[fifth == number]) for number in range(FIFTHS)],
        "bad": len(bad),
        "bad_above": round(float(np.mean(bad > TOO_GOOD)), 4) if len(bad) else None,
        "bad_worst": round(float(bad.max()), 3) if len(bad) else None,
        "within": spread,
    }


def tables(cards: Sequence[Path], *, recipe: StedRecipe, per_fifth: int = 40, peers: bool = True) -> dict[str, Any]:
    """Measure networks (by their cards) and peers; see `row`. `recipe` is what the simple peers learn from.

    Returns
    -------
    dict
        By row of `held_out_sources` and ``all``: ``abstained``, share of the frames by fifth that the first network
        does not judge; and by peer what `row` gives, on the frames that it does judge.
    """
    models = {path.stem: StedQualityModel({"card": str(path)}) for path in cards}
    scores: dict[str, Score] = {name: _scored(model) for name, model in models.items()}
    if peers:
        taught = joined([make_chunk(source(recipe), number, recipe.chunk_frames) for number in range(_chunks(recipe))])
        scores["ridge on sted_measures"] = ridge(taught)
        scores["random, of the training's labels"] = drawn_from(taught["quality"], recipe.seed)
    found: dict[str, Any] = {}
    together: dict[str, list[tuple[Array, Array, Array]]] = {name: [] for name in scores}
    for title, of in held_out_sources(recipe.seed).items():
        frames = held_out_frames(of, per_fifth)
        truth = frames["quality"].astype(np.float64)
        said = {name: judge(frames) for name, judge in scores.items()}
        judged = np.isfinite(next(iter(said.values()))[0])
        found[title] = {"abstained": _abstained(truth, judged), "peers": {}}
        for name, (value, sd) in said.items():
            found[title]["peers"][name] = row(truth[judged], value[judged], sd[judged], per_fifth)
            together[name].append((truth[judged], value[judged], sd[judged]))
    found["all"] = {"abstained": None, "peers": {name: _whole(parts, per_fifth) for name, parts in together.items()}}
    return found


def evaluate(cards: Sequence[Path], *, recipe: StedRecipe, per_fifth: int = 40) -> dict[str, Any]:
    """`tables`, and under ``what is wrong`` that of the first card whose network says so."""
    found = tables(cards, recipe=recipe, per_fifth=per_fifth)
    telling = [card for card in cards if len(NETWORKS[load_card(card).architecture].names) > 1]
    found["what is wrong"] = wrong_table(telling[0], recipe=recipe, per_fifth=per_fifth) if telling else {}
    return found


def recipe_of(card: Path, seed: int | None = None) -> StedRecipe:
    """The recipe that a card tells of; of images that were rated, the default one, for the peers."""
    held = load_card(card).training
    names = {field.name for field in fields(StedRecipe)}
    told: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in held.items() if name in names
    }
    # Rated images have no chunks, and their seed and rate mean something else.
    recipe = StedRecipe(**told) if "chunks" in told else StedRecipe()
    return recipe if seed is None else replace(recipe, seed=seed)


def wrong_table(card: Path, *, recipe: StedRecipe, per_fifth: int = 40) -> dict[str, dict[str, float]]:
    """How well the card's network names what is wrong, on new specimens and dyes: rank correlation and mean error."""
    frames = held_out_frames(next(iter(held_out_sources(recipe.seed).values())), per_fifth)
    said = [_by_pixel(StedQualityModel({"card": str(card)}), frames, index) for index in range(len(frames["counts"]))]
    found = {}
    for name in ("too_dim", "bleached", "unresolved"):
        kept = [index for index, one in enumerate(said) if not one.abstained and name in one.detail]
        if kept:
            value, truth = np.asarray([said[index].detail[name] for index in kept]), frames[name][kept]
            rank = float(spearmanr(value, truth).statistic)
            found[name] = {"spearman": round(rank, 3), "mae": round(float(np.mean(np.abs(value - truth))), 3)}
    return found


def ridge(taught: Chunk) -> Score:
    """Least squares with a penalty on the logarithms of what `sted_measures` says; clipped to 0..1."""
    kept = balanced(taught["quality"].astype(np.float64), RIDGE_FRAMES // FIFTHS)
    features = measures({key: values[kept] for key, values in taught.items()})
    mean, sd = features.mean(axis=0), features.std(axis=0) + 1e-9
    design = _quadratic((features - mean) / sd)
    penalty = RIDGE_PENALTY * np.eye(design.shape[1])
    penalty[0, 0] = 0.0
    weights = np.linalg.solve(design.T @ design + penalty, design.T @ taught["quality"][kept].astype(np.float64))

    def judge(frames: Chunk) -> tuple[Array, Array]:
        value = np.clip(_quadratic((measures(frames) - mean) / sd) @ weights, 0.0, 1.0)
        return value, np.full(len(value), math.nan)

    return judge


def measures(frames: Chunk) -> Array:
    """What `sted_measures` says of frames, as finite numbers (n, 9)."""
    model, rows = StedMeasures(with_decorrelation=False), []
    for index in range(len(frames["counts"])):
        detail = _by_pixel(model, frames, index).detail
        resolution_nm = detail["resolution_nm"]
        known = math.isfinite(resolution_nm)
        signal = _finite(detail["foreground_mean"]) - _finite(detail["background_mean"])
        light = [detail["mean_counts"], detail["max_counts"], signal, detail["light_counts"]]
        rows.append([
            *(math.log(max(one, 0.0) + 0.02) for one in light),
            math.log(_finite(detail["dispersion"], 1.0) + 0.02), detail["foreground_share"],
            math.log(resolution_nm if known else 400.0), float(known), detail["resolution_censored"],
        ])  # fmt: skip
    return np.asarray(rows, dtype=np.float64)


def drawn_from(labels: NDArray[Any], seed: int) -> Score:
    """The paper's baseline: a score drawn from the training's labels, whatever the image."""
    rng = np.random.default_rng((seed, 3))

    def judge(frames: Chunk) -> tuple[Array, Array]:
        value = rng.choice(labels, len(frames["counts"])).astype(np.float64)
        return value, np.full(len(value), math.nan)

    return judge


def render(found: Mapping[str, Any]) -> str:
    """Tables as Markdown."""
    lines = []
    for title, table in found.items():
        if title == "what is wrong":
            continue
        lines += [f"### {title[0].upper() + title[1:]}", ""]
        lines.append("| | frames | Spearman | MAE by fifth | bad above 0.4 | worst bad | within 1, 2 sd |")
        lines.append("|---|---|---|---|---|---|---|")
        for name, one in table["peers"].items():
            mae = " ".join("-" if value is None else f"{value:.3f}" for value in one["mae"])
            within = "-" if one["within"] is None else " ".join(f"{value:.2f}" for value in one["within"])
            above = "-" if one["bad_above"] is None else f"{one['bad_above']:.2%} of {one['bad']}"
            cells = (name, one["frames"], f"{one['spearman']:.3f}", mae, above, one["bad_worst"], within)
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        if table["abstained"] is not None:
            lines += ["", "Abstained, by fifth: " + " ".join(f"{share:.2f}" for share in table["abstained"])]
        lines.append("")
    if found.get("what is wrong"):
        lines += ["### What is wrong, on new specimens and dyes", "", "| | Spearman | MAE |", "|---|---|---|"]
        lines += [f"| {name} | {one['spearman']} | {one['mae']} |" for name, one in found["what is wrong"].items()]
    return "\n".join(lines).rstrip()


def _scored(model: StedQualityModel) -> Score:
    def judge(frames: Chunk) -> tuple[Array, Array]:
        said = [_by_pixel(model, frames, index) for index in range(len(frames["counts"]))]
        return np.asarray([one.value for one in said]), np.asarray([one.sd for one in said])

    return judge


def _by_pixel(model: Model, frames: Chunk, index: int) -> Assessment:
    return model.assess(frames["counts"][index][None], float(frames["pixel_um"][index]))[0]


def _whole(parts: Sequence[tuple[Array, Array, Array]], per_fifth: int) -> dict[str, Any]:
    truth, value, sd = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    # Every row takes its share of the frames that the ranks are compared on.
    some = np.concatenate([balanced(one[0], per_fifth) + start for one, start in _starts(parts)])
    whole = row(truth, value, sd, per_fifth)
    return whole | {"spearman": round(float(spearmanr(value[some], truth[some]).statistic), 4)}


def _starts(parts: Sequence[tuple[Array, Array, Array]]) -> list[tuple[tuple[Array, Array, Array], int]]:
    found, start = [], 0
    for part in parts:
        found.append((part, start))
        start += len(part[0])
    return found


def _abstained(truth: Array, judged: NDArray[np.bool_]) -> list[float]:
    fifth = fifth_of(truth)
    return [
        round(float(np.mean(~judged[fifth == number])), 3) if (fifth == number).any() else 0.0
        for number in range(FIFTHS)
    ]


def _chunks(recipe: StedRecipe) -> int:
    """Chunks that hold enough good frames to teach the ridge."""
    return min(recipe.chunks, max(1, 12 * RIDGE_FRAMES // (FIFTHS * recipe.chunk_frames)))


def _quadratic(features: Array) -> Array:
    """A constant, the features, their squares and products."""
    rows, columns = np.triu_indices(features.shape[1])
    return np.concatenate([np.ones((len(features), 1)), features, features[:, rows] * features[:, columns]], axis=1)


def _mean(values: Array) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None


def _finite(value: float, otherwise: float = 0.0) -> float:
    return value if math.isfinite(value) else otherwise
