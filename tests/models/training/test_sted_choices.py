"""Confusion and domination of recorded choices, against numbers worked by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parfocal import UsageError
from parfocal.models.training.sted_choices import Choice, Tally, confusion, domination, read_choices, study, tally


@pytest.mark.parametrize(
    ("target", "prediction", "equivalent", "expected"),
    [
        (0, 0, 5, 1.0),  # all equivalent
        (3, 3, 0, 1.0),  # picked alike
        (2, 2, 6, 1.0),
        (4, 0, 0, 0.0),  # always the target
        (0, 4, 0, 0.0),  # always the prediction
        (6, 2, 2, 0.6),  # 1 - |(4 + 2) - 10| / 10
        (1, 6, 3, 0.5),  # 1 - |(12 + 3) - 10| / 10
    ],
)
def test_confusion(target: int, prediction: int, equivalent: int, expected: float) -> None:
    assert confusion(Tally(target, prediction, equivalent)) == pytest.approx(expected)


def test_domination() -> None:
    assert domination(Tally(6, 2, 100)) == pytest.approx(0.25)
    assert domination(Tally(0, 3, 0)) == 1.0
    assert domination(Tally(3, 0, 0)) == 0.0


def test_what_is_undefined_is_not_a_number() -> None:
    assert math.isnan(domination(Tally(0, 0, 7)))
    assert math.isnan(confusion(Tally(discard=4)))
    assert math.isnan(domination(Tally(discard=4)))


def test_discarded_images_do_not_count() -> None:
    assert confusion(Tally(6, 2, 2, 30)) == confusion(Tally(6, 2, 2))


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_confusion_is_the_same_either_way_round_and_a_share(target: int, prediction: int, equivalent: int) -> None:
    found = confusion(Tally(target, prediction, equivalent))
    if target + prediction + equivalent:
        assert 0.0 <= found <= 1.0
        assert found == confusion(Tally(prediction, target, equivalent))
        total = target + prediction + equivalent
        assert found == pytest.approx(1 - abs(prediction - target) / total)


def test_tally_counts_and_refuses_what_is_no_choice() -> None:
    assert tally(["target", "prediction", "prediction", "discard"]) == Tally(1, 2, 0, 1)
    with pytest.raises(UsageError, match="equivalent"):
        tally(["equivalant"])


def test_measures_are_made_for_each_tester_and_averaged() -> None:
    records = [
        *(Choice("a", 0.1, one) for one in ("target", "prediction", "equivalent", "equivalent")),  # C 1, D 0.5
        *(Choice("b", 0.19, one) for one in ("target", "target", "prediction", "prediction", "prediction", "discard")),
        *(Choice("c", 0.2, one) for one in ("equivalent", "equivalent")),  # the next bin; no domination
        Choice("c", 1.0, "prediction"),
    ]
    rows = study(records)
    assert [row.testers for row in rows] == [2, 1, 0, 0, 1]
    # b: 1 - |6 - 5| / 5 = 0.8, 3 / 5 = 0.6
    assert rows[0].confusion == (pytest.approx(0.9), pytest.approx(0.2 / math.sqrt(2)))
    assert rows[0].domination == (pytest.approx(0.55), pytest.approx(0.1 / math.sqrt(2)))
    assert rows[1].confusion[0] == 1.0
    assert math.isnan(rows[1].confusion[1])
    assert math.isnan(rows[1].domination[0])
    assert math.isnan(rows[2].confusion[0])
    assert rows[4].domination[0] == 1.0


def test_a_target_outside_the_range_is_refused() -> None:
    with pytest.raises(UsageError, match=r"0\.\.1"):
        study([Choice("a", 1.2, "target")])


def test_choices_are_read_from_a_table(tmp_path: Path) -> None:
    path = tmp_path / "choices.csv"
    path.write_text("tester,target,choice\nann,0.3, prediction\n", encoding="utf-8")
    assert read_choices(path) == [Choice("ann", 0.3, "prediction")]
    path.write_text("tester,target,choice\nann,high,target\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"choices.csv:2.*number"):
        read_choices(path)
    path.write_text("tester,choice\nann,target\n", encoding="utf-8")
    with pytest.raises(UsageError, match="no column target"):
        read_choices(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_choices(tmp_path / "none.csv")
