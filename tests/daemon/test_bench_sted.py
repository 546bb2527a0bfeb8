"""The STED table: episodes through driver, guard and policy, judged in truth; small ones."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

import pytest

from parfocal import UsageError
from parfocal.daemon import bench, bench_sted
from parfocal.daemon.bench_sted_cells import Cell, Episode, Outcome, make_tuner, run_cell, similar, wanted_of
from parfocal.daemon.bench_sted_truth import Place, best_settings, objectives, utility

SMALL = Place("actin_rings", "robust", 64)
GOOD = {"excitation_power": 2.5, "depletion_power": 200.0, "dwell_us": 7.0}
BURNING = {"excitation_power": 10.0, "depletion_power": 300.0, "dwell_us": 60.0}
CONFOCAL = {"excitation_power": 1.0, "dwell_us": 10.0}


def test_true_objectives_follow_the_physics() -> None:
    gentle = objectives(SMALL, GOOD, CONFOCAL, 2)
    harsh = objectives(SMALL, {**GOOD, "dwell_us": 50.0}, CONFOCAL, 2)
    wide = objectives(SMALL, {**GOOD, "depletion_power": 5.0}, CONFOCAL, 2)
    assert 0.02 < gentle["bleach"] < harsh["bleach"] < 1
    assert wide["resolution_nm"] > gentle["resolution_nm"]
    assert wide["signal_ratio"] > gentle["signal_ratio"] > 0
    assert objectives(SMALL, GOOD, CONFOCAL, 2) == gentle
    fragile = objectives(replace(SMALL, dye="fragile"), GOOD, CONFOCAL, 2)
    assert fragile["bleach"] > 1.5 * gentle["bleach"]


def test_what_the_detector_may_not_see_is_worth_nothing() -> None:
    wanted = wanted_of(make_tuner("sted.bayes", SMALL, 0, 1, {}))
    assert utility(SMALL, GOOD, wanted, 2) > 0.5
    assert utility(SMALL, GOOD, replace(wanted, max_rate_mhz=0.01), 2) == 0.0


def test_the_search_finds_better_than_it_is_given() -> None:
    wanted = wanted_of(make_tuner("sted.bayes", SMALL, 0, 1, {}))
    best = best_settings(SMALL, wanted, 32, (1, 2, 3))
    assert utility(SMALL, best, wanted, 3) > max(utility(SMALL, one, wanted, 3) for one in (BURNING, CONFOCAL | {
        "depletion_power": 5.0})) + 0.1  # fmt: skip
    assert all(low <= best[n] <= high for n, low, high in zip(
        wanted.space.names, wanted.space.lower, wanted.space.upper, strict=True))  # fmt: skip


def test_an_episode_ends_dark_and_asks_for_nothing_that_is_refused() -> None:
    episode = Episode(SMALL, "sted.random", 3, 3, {})
    episode.run()
    assert len(episode.policy.trials) == 3
    assert episode.guard.refused == 0
    assert "3 images were taken" in episode.ended
    assert len(episode.bleached) == 3 and all(0 <= share <= 1 for share in episode.bleached)
    assert episode.ledger.spent > 0


def test_the_guard_stands_between_a_policy_and_the_light() -> None:
    episode = Episode(SMALL, "sted.fixed", 3, 2, {"bounds": {"excitation_power": [0.1, 20.0]}, "settings": {
        "excitation_power": 15.0}, "max_rate_mhz": 100.0})  # fmt: skip
    episode.run()
    assert episode.guard.refused > 0
    assert not episode.bleached
    assert "not taken" in episode.ended


def test_a_cell_counts_regret_of_every_image() -> None:
    cell = Cell(SMALL, "sted.fixed", 1, 2, tuple(GOOD.items()))
    outcome = run_cell(cell)
    assert outcome.regrets == [outcome.regrets[0]] * 2
    assert abs(outcome.regrets[0]) < 0.5
    assert 0 < outcome.utility < 1
    assert outcome.settings["depletion_power"] == 100.0


def test_a_similar_dye_is_another_one() -> None:
    assert similar(SMALL).dye_option["base"] == "robust"
    worse = objectives(similar(SMALL), GOOD, CONFOCAL, 1)
    assert worse["bleach"] > objectives(SMALL, GOOD, CONFOCAL, 1)["bleach"]


def test_pairs_are_of_the_same_structure_and_seed() -> None:
    def one(dye: str, seed: int) -> Outcome:
        return Outcome(Cell(replace(SMALL, dye=dye), "sted.bayes", seed, 2, ()), dict(GOOD), 0.5)

    found = bench_sted.fragile_pairs([one("robust", 1), one("fragile", 1), one("fragile", 2), one("dim", 1)])
    assert [(a.cell.place.dye, b.cell.place.dye, a.cell.seed) for a, b in found] == [("fragile", "robust", 1)]


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    options = argparse.Namespace(
        policies="sted.bayes,sted.random", seeds=1, images=3, jobs=1, seed=11, structures=("actin_rings",),
        dyes="robust,fragile", size_px=64, screened=32, suggestion_trials=3, audited=5,
    )  # fmt: skip
    table = bench_sted.sted(options)
    assert [row[0] for row in table["rows"]] == ["sted.bayes", "sted.random", "sted.bayes, warm"]
    assert all(len(row) == len(table["columns"]) for row in table["rows"])
    assert all(row[1] == 2 and row[2] >= 0 and row[8] == 0 for row in table["rows"])
    assert math.isnan(table["rows"][1][9])
    notes = "\n".join(table["notes"])
    for said in ("fragile against robust", "warm start", "bayes over sted.random", "0 over a limit", "after 3 images"):
        assert said in notes
    assert "episodes" in capsys.readouterr().err
    assert bench._markdown(table)


def test_other_dyes_are_compared_where_asked_for() -> None:
    usual = {place.dye for place in bench_sted.places_of(argparse.Namespace(dyes=""))}
    asked = [place.dye for place in bench_sted.places_of(argparse.Namespace(dyes="robust, hard_to_deplete"))]
    assert usual == {"robust", "fragile", "dim"}
    assert asked == ["robust", "hard_to_deplete"] * 3
    with pytest.raises(UsageError, match="did you mean 'fragile'"):
        bench_sted.places_of(argparse.Namespace(dyes="fragil"))


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(UsageError, match=r"sted\.bayes"):
        bench_sted.chosen_policies("sted.byes")
