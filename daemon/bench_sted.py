"""`parfocal bench sted`: every policy tunes every structure and dye; judged in truth on fields it has not seen."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from typing import Any, TypeVar

import numpy as np

from parfocal import UsageError, did_you_mean
from parfocal.daemon import bench_sted_truth as truth
from parfocal.daemon.bench_sted_cells import (
    Cell,
    Episode,
    Outcome,
    learn,
    make_tuner,
    percentile,
    run_cell,
    wanted_of,
)
from parfocal.daemon.bench_sted_truth import MANY, Place, utility
from parfocal.simulator import sted as simulator

_In = TypeVar("_In")
_Out = TypeVar("_Out")
STRUCTURES = ("actin_rings", "filaments", "synapses")
DYES = ("robust", "fragile", "dim")
"""Compared where nobody says which; `hard_to_deplete` is there for whoever asks, and would cost a third more time."""
POLICIES = ("sted.bayes", "sted.thompson", "sted.random", "sted.fixed")
WARM = "sted.bayes, warm"
SUGGESTION_TRIALS, SUGGESTIONS = 30, 3
AUDITED = 10_000
EARLIER_RUNS = 5
"""Runs on a similar dye for each structure and dye; the seeds share them."""
nan = math.nan


def sted(options: argparse.Namespace) -> dict[str, Any]:
    """Regret, light and bleaching of every policy; whether a fragile dye gets less; what a warm start brings."""
    policies, places = chosen_policies(options.policies), places_of(options)
    outcomes, best = measure(places, policies, options)
    rows = [_policy_row(name, outcomes[name], best) for name in (*policies, WARM) if outcomes.get(name)]
    columns = [
        "policy", "episodes", "regret median", "regret p90", "mean regret an image", "light median", "light mean",
        "bleached an image", "refused", "stops after", "regret then, median",
    ]  # fmt: skip
    notes = _notes(places, outcomes, best, options)
    return {"title": "STED settings in so many images", "columns": columns, "rows": rows, "notes": notes}


def chosen_policies(asked: str) -> list[str]:
    """Return the policies that are compared; raises `UsageError` for one that is not known."""
    wanted = [name.strip() for name in asked.split(",") if name.strip()]
    for name in wanted:
        if name not in POLICIES:
            raise UsageError(f"bench sted: there is no policy {name!r}{did_you_mean(name, POLICIES)}")
    return [name for name in POLICIES if not wanted or name in wanted]


def places_of(options: argparse.Namespace) -> list[Place]:
    """Every structure with every dye; raises `UsageError` for a dye that is not known."""
    structures = getattr(options, "structures", None) or STRUCTURES
    dyes = [name.strip() for name in getattr(options, "dyes", "").split(",") if name.strip()] or DYES
    for name in dyes:
        if name not in simulator.DYES:
            raise UsageError(f"bench sted: there is no dye {name!r}{did_you_mean(name, simulator.DYES)}")
    return [Place(structure, dye, getattr(options, "size_px", 128)) for structure in structures for dye in dyes]


Best = dict[Place, float]


def measure(
    places: Sequence[Place], policies: Sequence[str], options: argparse.Namespace
) -> tuple[dict[str, list[Outcome]], Best]:
    """Run all episodes; return them by policy, and the highest true utility known at each place."""
    screened = getattr(options, "screened", truth.SCREENED)
    with _pool(options.jobs) as spread:
        tops = dict(spread(_best, [(place, screened) for place in places], "best settings"))
        cells = [
            Cell(place, name, options.seed + seed, options.images, tuple(tops[place][0].items()))
            for place in places for seed in range(options.seeds) for name in policies
        ]  # fmt: skip
        if "sted.bayes" in policies:
            cells += _warm_cells([cell for cell in cells if cell.policy == "sted.bayes"], spread)
        made = list(spread(run_cell, cells, "episodes"))
    best = {place: top for place, (_, top) in tops.items()}
    outcomes: dict[str, list[Outcome]] = {}
    for outcome in made:
        place = outcome.cell.place
        # Whoever finds something better than the search did has found what is best.
        best[place] = max(best[place], outcome.utility)
        outcomes.setdefault(WARM if outcome.cell.warm else outcome.cell.policy, []).append(outcome)
    return outcomes, best


def _warm_cells(cold: Sequence[Cell], spread: Callable[..., Iterator[Any]]) -> list[Cell]:
    """Return the same episodes, begun with what one of a few earlier runs on a similar dye has learned."""
    tasks = sorted({(c.place, c.seed % EARLIER_RUNS, c.images) for c in cold}, key=lambda task: (task[0].name, task[1]))
    learned = dict(spread(learn, tasks, "earlier runs on similar dyes"))
    return [replace(cell, warm=learned[cell.place, cell.seed % EARLIER_RUNS]) for cell in cold]


def _best(task: tuple[Place, int]) -> tuple[Place, tuple[dict[str, float], float]]:
    place, screened = task
    wanted = wanted_of(make_tuner("sted.bayes", place, 0, 1, {}))
    found = truth.best_settings(place, wanted, screened)
    return place, (found, utility(place, found, wanted, MANY))


@contextmanager
def _pool(jobs: int) -> Iterator[Callable[[Callable[[_In], _Out], Sequence[_In], str], Iterator[_Out]]]:
    """Spread calls over processes, and say on stderr how far they are."""
    if jobs <= 1:
        yield lambda function, tasks, what: _told(map(function, tasks), len(tasks), what)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_one_thread) as pool:

        def spread(function: Callable[[_In], _Out], tasks: Sequence[_In], what: str) -> Iterator[_Out]:
            futures = [pool.submit(function, task) for task in tasks]
            return _told((future.result() for future in as_completed(futures)), len(tasks), what)

        yield spread


def _told(results: Iterator[_Out], total: int, what: str) -> Iterator[_Out]:
    began = time.monotonic()
    for number, result in enumerate(results, 1):
        left_s = (time.monotonic() - began) / number * (total - number)
        sys.stderr.write(f"\rbench sted: {what} {number}/{total}, {left_s / 60:.1f} min left   ")
        sys.stderr.flush()
        yield result
    sys.stderr.write("\n")


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _policy_row(name: str, own: Sequence[Outcome], best: Best) -> list[Any]:
    regrets = [best[o.cell.place] - o.utility for o in own]
    stops = name in ("sted.bayes", WARM)
    return [
        name, len(own), percentile(regrets, 50), percentile(regrets, 90), learning_regret(own),
        percentile([o.light for o in own], 50), float(np.mean([o.light for o in own])),
        float(np.nanmean([o.bleached for o in own])), sum(o.refused for o in own),
        percentile([o.stopped for o in own], 50) if stops else nan,
        percentile([best[o.cell.place] - o.stopped_utility for o in own], 50) if stops else nan,
    ]  # fmt: skip


def learning_regret(own: Sequence[Outcome]) -> float:
    """Mean regret an image, all images of all episodes alike."""
    return float(np.mean([regret for outcome in own for regret in outcome.regrets]))


def _notes(
    places: Sequence[Place], outcomes: dict[str, list[Outcome]], best: Best, options: argparse.Namespace
) -> list[str]:
    notes = [
        f"{len(places)} samples ({', '.join(place.name for place in places)}), {options.seeds} seeds, "
        f"{options.images} images of 128 x 128 px each",
        f"regret: highest true utility of a search over the whole space and of all that was recommended, less that of "
        f"the settings, both in the mean over {MANY} fresh fields ({truth.FEW} while learning); the shipped preference",
        "light: excitation power (uW) times time (ms) of all frames, the confocal ones included",
        "bleached an image: true share of a field's molecules gone after its STED frame",
        "highest utility: " + ", ".join(f"{place.name} {best[place]:.3f}" for place in places),
    ]
    notes += [*_ratios(outcomes), *_fragile(outcomes)]
    notes += [suggestion_time(options), *_audited(getattr(options, "audited", AUDITED))]
    return notes + _quality()


def _ratios(outcomes: dict[str, list[Outcome]]) -> list[str]:
    bayes, warm, found = outcomes.get("sted.bayes"), outcomes.get(WARM), []
    if not bayes:
        return []
    for name in ("sted.random", "sted.thompson"):
        other = outcomes.get(name)
        if other:
            light, lost = (
                float(np.nanmean([getattr(o, what) for o in bayes]) / np.nanmean([getattr(o, what) for o in other]))
                for what in ("light", "bleached")
            )
            regret = learning_regret(bayes) / learning_regret(other)
            said = f"mean regret an image {regret:.2f}, light {light:.2f}, bleached {lost:.2f}"
            found.append(f"bayes over {name}: {said}")
    if warm:
        ratio = learning_regret(warm) / learning_regret(bayes)
        found.append(f"warm start from a similar dye over cold: mean regret an image {ratio:.2f}")
    return found


def fragile_pairs(own: Sequence[Outcome]) -> list[tuple[Outcome, Outcome]]:
    """Pair the episodes on a fragile dye with those on a robust one of the same structure and seed."""
    known = {(o.cell.place.structure, o.cell.place.dye, o.cell.seed): o for o in own if o.settings}
    keys = sorted((structure, seed) for structure, dye, seed in known if dye == "fragile")
    pairs = [(known[s, "fragile", n], known.get((s, "robust", n))) for s, n in keys]
    return [(one, other) for one, other in pairs if other is not None]


def _fragile(outcomes: dict[str, list[Outcome]]) -> list[str]:
    from parfocal.policies.sted.space import DEPLETION, dose_of

    pairs = fragile_pairs(outcomes.get("sted.bayes", []))
    if not pairs:
        return []
    less = np.mean([dose_of(one.settings) < dose_of(other.settings) for one, other in pairs])
    both = np.mean([
        one.settings[DEPLETION] * one.settings["dwell_us"] < other.settings[DEPLETION] * other.settings["dwell_us"]
        for one, other in pairs
    ])  # fmt: skip
    return [
        f"fragile against robust dye: less excitation dose recommended in {less:.3f} of {len(pairs)} pairs, less "
        f"depletion dose in {both:.3f}"
    ]


def suggestion_time(options: argparse.Namespace) -> str:
    """Time `sted.bayes` takes for a suggestion over three parameters, when it has seen so many images."""
    from parfocal.policies.sted.solving import solve, warm_up

    images = getattr(options, "suggestion_trials", SUGGESTION_TRIALS)
    place = Place(STRUCTURES[0], DYES[0], getattr(options, "size_px", 128))
    seen = Episode(place, "sted.random", options.seed, images, {})
    seen.run()
    policy = make_tuner("sted.bayes", place, options.seed, images + 1, {})
    policy.restore(told_of(policy.checkpoint(), seen.policy.learned()["trials"]))
    problem = policy.problem() or {}
    warm_up(str(problem["solve"]))
    walls, spent = [], []
    for _ in range(SUGGESTIONS):
        wall, cpu = time.perf_counter(), time.process_time()
        solve(problem)
        walls.append(time.perf_counter() - wall)
        spent.append(time.process_time() - cpu)
    return (
        f"a suggestion for 3 parameters after {len(problem['trials'])} images: {np.median(walls):.2f} s, of which "
        f"{np.median(spent):.2f} s of one processor (median of {SUGGESTIONS})"
    )


def told_of(checkpoint: dict[str, Any], trials: Sequence[Any]) -> dict[str, Any]:
    """Return a checkpoint of a policy that has made these trials and is to choose the next."""
    memory = {**checkpoint["memory"], "phase": "choose", "images": len(trials)}
    return {**checkpoint, "trials": list(trials), "memory": memory}


def _audited(configurations: int) -> list[str]:
    from parfocal.policies.sted.audit import audit

    found = audit(configurations)
    return [
        f"{found.requests} requests of {found.configurations} random configurations, {found.trials} STED frames among "
        f"them: {len(found.over)} over a limit" + (f" ({found.over[0]})" if found.over else "")
    ]


def _quality() -> list[str]:
    """What the card of the network that judges STED images says was measured, if there is one."""
    from parfocal.models.base import ModelError
    from parfocal.models.cards import packaged_card_path

    try:
        packaged_card_path("sted_quality")
    except ModelError:
        return ["quality network: not trained here (parfocal train sted-quality)"]
    from parfocal.models import make_model

    tables = make_model("sted_quality", {}).card.measured.get("tables", {})
    own = tables.get("all", {}).get("peers", {}).get("sted_quality")
    if not own:
        return ["quality network: its card states no figures"]
    errors = ", ".join(f"{value:.3f}" for value in own["mae"])
    return [
        f"quality network on specimens and dyes held out, as its card states ({own['frames']} frames): Spearman "
        f"{own['spearman']:.3f}; mean absolute error by fifth of the range {errors}; {own['bad_above']:.1%} of the bad "
        f"images (< 0.2) above 0.4, the worst at {own['bad_worst']:.2f}"
    ]
