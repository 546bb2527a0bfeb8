"""The nearest valid name, for the messages of every room."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from parfocal import did_you_mean

KNOWN = ("exposure_ms", "NA", "emission_nm", "pixel_um")


@pytest.mark.parametrize(
    ("name", "guess"),
    [("exposure_sm", "exposure_ms"), ("Exposure_MS", "exposure_ms"), ("na", "NA"), ("pixel", "pixel_um")],
)
def test_the_nearest_is_offered_as_it_is_spelt(name: str, guess: str) -> None:
    assert did_you_mean(name, KNOWN) == f"; did you mean {guess!r}?"
    assert did_you_mean(name, iter(KNOWN)) == f"; did you mean {guess!r}?"


@pytest.mark.parametrize("name", ["", "zzz", "drift"])
def test_nothing_is_offered_where_nothing_is_near(name: str) -> None:
    assert did_you_mean(name, KNOWN) == ""
    assert did_you_mean("pixel_um", ()) == ""


def test_every_room_asks_here() -> None:
    root = Path(__file__).parents[1]
    sources = [
        path
        for room in ("daemon", "drivers", "models", "policies", "simulator")
        for path in (root / room).rglob("*.py")
    ]
    assert len(sources) > 50
    own = [
        path.relative_to(root).as_posix()
        for path in sources
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import) and any(alias.name == "difflib" for alias in node.names)
    ]
    assert own == []
