"""Measured responses: fit, table, likelihood."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from parfocal.models.base import Assessment
from parfocal.policies import make_policy
from parfocal.policies.base import PolicyError, PolicyOptionError
from parfocal.policies.focus.response import Response, fit_response

SWEEP = np.linspace(-15.0, 15.0, 31)


def beads(defocus_um: NDArray[np.float64]) -> NDArray[np.float64]:
    """A blur that saturates beyond 10 um."""
    return 1.5 + 6.0 * np.tanh((np.abs(defocus_um) / 5.0) ** 1.3)


def noisy(z0: float, noise: float, seed: int) -> NDArray[np.float64]:
    return beads(SWEEP - z0) + noise * np.random.default_rng(seed).standard_normal(len(SWEEP))


@pytest.mark.parametrize("z0", [0.0, 0.37, -2.2])
def test_the_vertex_and_the_curve_are_found(z0: float) -> None:
    for seed in range(5):
        response = fit_response(SWEEP, noisy(z0, 0.1, seed))
        assert abs(response.z0_um - z0) < 0.25
        misses = response.mean - beads(response.defocus_um + response.z0_um - z0)
        assert np.sqrt(np.mean(misses**2)) < 0.2


def test_the_spread_is_that_of_one_look() -> None:
    for noise in (0.1, 0.3):
        sds = [np.median(fit_response(SWEEP, noisy(0.0, noise, seed)).sd) for seed in range(8)]
        assert 0.7 * noise < np.median(sds) < 2.0 * noise


def test_each_side_is_monotone_and_may_differ() -> None:
    y = np.where(SWEEP < 0, beads(SWEEP), 1.5 + 0.8 * np.abs(SWEEP))
    response = fit_response(SWEEP, y + 0.05 * np.random.default_rng(1).standard_normal(31))
    d, mean = response.defocus_um, response.mean
    assert (np.diff(mean[d <= 0]) <= 1e-9).all()
    assert (np.diff(mean[d >= 0]) >= -1e-9).all()
    assert np.interp(12.0, d, mean) > np.interp(-12.0, d, mean) + 1.0


def test_saturation_stays_honest() -> None:
    """A look from the plateau says only that it is the plateau."""
    response = fit_response(SWEEP, noisy(0.0, 0.1, 0))
    density = response.likelihood(7.5)
    far = density[np.abs(response.defocus_um) > 11.0]
    assert far.min() > 0.2 * far.max()
    assert density[np.abs(response.defocus_um) < 5.0].max() < 0.01 * far.max()


def test_nan_points_are_left_out_and_repeats_used() -> None:
    y = noisy(0.0, 0.1, 0)
    y[3] = math.nan
    twice = fit_response(np.tile(SWEEP, 2), np.concatenate([y, noisy(0.0, 0.1, 1)]), np.full(62, 0.5))
    assert abs(twice.z0_um) < 0.25
    assert twice.sd.min() >= 0.5


@pytest.mark.parametrize(
    ("z", "y", "said"),
    [
        (SWEEP[:5], beads(SWEEP[:5]), "at least 7"),
        (SWEEP, beads(SWEEP - 20.0), "sweep further"),
        (SWEEP, np.random.default_rng(0).standard_normal(31), "no focus|sweep further"),
        (SWEEP, np.full(31, math.nan), "at least 7"),
        (SWEEP, beads(SWEEP)[:-1], "equally long"),
    ],
)
def test_sweeps_without_a_focus_are_refused(z: NDArray[np.float64], y: NDArray[np.float64], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        fit_response(z, y)


def test_the_table_survives_json_and_is_checked() -> None:
    response = fit_response(SWEEP, noisy(0.3, 0.1, 0), signs=np.tanh(SWEEP))
    table = json.loads(json.dumps(response.to_json()))
    again = Response.from_json(table)
    np.testing.assert_allclose(again.mean, response.mean, rtol=1e-5)
    assert again.signed
    for key, value in (("mean", [1.0]), ("sd", [0.0] * len(again.sd)), ("defocus_um", table["mean"]), ("x", 1)):
        with pytest.raises(ValidationError):
            Response.from_json(table | {key: value})
        with pytest.raises(PolicyOptionError, match="response"):
            make_policy("focus.belief", {"dof_um": 1.0, "response": table | {key: value}})


def test_a_second_number_tells_the_sides_apart() -> None:
    response = fit_response(SWEEP, noisy(0.0, 0.1, 0), signs=2.0 * np.tanh(SWEEP / 3.0) + 0.1 * np.sin(7 * SWEEP))
    density = response.likelihood(float(beads(np.array([4.0]))[0]), 1.8)
    assert density[response.defocus_um > 0].sum() > 20 * density[response.defocus_um < 0].sum()
    said = Assessment("defocus", 3.0, 1.0, detail={"sign": 1.5})
    assert response.observed_sign(said) == 1.5
    assert response.observed_sign(Assessment("defocus", 3.0, 1.0)) is None


def test_another_number_of_the_assessment_may_be_the_source() -> None:
    response = fit_response(SWEEP, noisy(0.0, 0.1, 0), source="blur_px")
    assert response.observable(Assessment("defocus", 9.0, 1.0, detail={"blur_px": 3.0})) == 3.0
    assert math.isnan(response.observable(Assessment("defocus", 9.0, 1.0)))


def test_a_vertex_beside_a_plane_makes_a_table_that_can_be_read_again() -> None:
    """Rounding must not make one of two neighbours."""
    for shift in (0.0, 1e-9, -1e-7, 0.5, 0.3333333):
        response = fit_response(SWEEP, beads(SWEEP - shift))
        table = response.to_json()
        assert Response.from_json(table).defocus_um.size == response.defocus_um.size
        assert 0.0 in response.defocus_um


def test_the_depth_of_field_is_where_the_number_has_not_left_its_own_spread() -> None:
    grid = np.linspace(-10.0, 10.0, 2001)
    for sd in (0.5, 1.0):
        response = Response(grid, 1.0 + np.where(grid < 0, -2.0 * grid, grid), np.full(2001, sd))
        assert response.dof_um == pytest.approx(1.5 * sd, abs=1e-6)
    assert Response(grid, 0.01 * np.abs(grid), np.ones(2001)).dof_um == pytest.approx(20.0)


def test_a_sign_that_the_assessment_disowns_is_none() -> None:
    response = fit_response(SWEEP, noisy(0.0, 0.1, 0), signs=2.0 * np.tanh(SWEEP / 3.0), sign_source="positive")
    said = {"positive": 0.5, "signed": 0.0}
    assert response.observed_sign(Assessment("defocus", 3.0, 1.0, detail=said)) is None
    assert response.observed_sign(Assessment("defocus", 3.0, 1.0, detail=said | {"signed": 1.0})) == 0.5


def test_a_bad_table_is_not_repeated_in_full() -> None:
    table = fit_response(SWEEP, noisy(0.3, 0.1, 0)).to_json()
    with pytest.raises(PolicyOptionError) as caught:
        make_policy("focus.belief", {"dof_um": 1.0, "response": table | {"defocus_um": table["mean"]}})
    assert "ascend" in str(caught.value)
    assert len(str(caught.value)) < 300
