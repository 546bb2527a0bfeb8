from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy import stats

from parfocal.models.base import Assessment, ModelCard, ModelError, WeightsHashError
from parfocal.models.cards import load_card
from parfocal.models.defocus import DefocusModel
from parfocal.models.defocus_net import BLUR_BINS
from parfocal.models.defocus_posterior import Posterior, edges_px, trained_prior
from parfocal.models.training import publish as publishing
from parfocal.models.training.camera_noise import expose
from parfocal.models.training.fields import split_of
from parfocal.models.training.publish import publish
from parfocal.models.training.train_defocus import Recipe, train
from parfocal.simulator.optics import Imager, Optics
from parfocal.simulator.specimens import make_specimen
from tests.models.training.test_fields import field, write

TINY = Recipe(
    chunks=2, chunk_examples=8, passes=1, batch=8, buffer_chunks=2, size_px=128, procedural=8, workers=0, seed=5,
    device="cpu",
)  # fmt: skip
OPTICS = Optics(na=0.75, pixel_um=0.325, emission_um=0.52)


def draw_little(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"OPTICS_DRAWN": 2, "SPECIMENS_DRAWN": 3, "SIDE_PX": 128}.items():
        monkeypatch.setattr(publishing, name, value)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelCard]:
    out = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        draw_little(patch)
        network = train(TINY, out)
        card = publish(network, TINY, out, fields=None)
    return out, card


def frame(defocus_um: float = 3.0) -> NDArray[np.uint16]:
    specimen = make_specimen("nuclei", (192, 192), pixel_um=OPTICS.pixel_um, seed=2)
    image = Imager(OPTICS, (192, 192)).image(specimen, defocus_um)
    return expose(image, 1.0, np.random.default_rng(1), photons=2000.0).counts.astype(np.uint16)


def model_of(card: Path) -> DefocusModel:
    options = {"card": str(card), "na": OPTICS.na, "emission_um": OPTICS.emission_um, "precision": "float32"}
    return DefocusModel({**options, "backend": "torch", "patch_map": False})


def test_what_is_published_loads_and_answers(published: tuple[Path, ModelCard]) -> None:
    out, card = published
    assert load_card(out / "defocus.json") == card
    said = model_of(out / "defocus.json").assess(frame()[None], OPTICS.pixel_um)[0]
    assert said.model == "defocus"
    assert said.abstained or (np.isfinite(said.value) and said.sd > 0)
    assert 0.0 <= said.detail["signal"] <= 1.0
    trained, held = load_file(out / "weights.safetensors"), load_file(out / "defocus.safetensors")
    assert trained.keys() == held.keys()
    assert all((held[name] == value).all() for name, value in trained.items())


def test_the_card_says_how_it_was_made_and_no_path(published: tuple[Path, ModelCard]) -> None:
    _, card = published
    calibration = card.measured["calibration"]
    assert set(calibration) == {"temperature", "floor", "signal_from"}
    assert 0.3 <= calibration["temperature"] <= 2.5
    assert 0.0 < calibration["floor"] <= 0.02
    assert 0.0 < calibration["signal_from"] < 1.0
    assert card.training["seed"] == 5
    assert card.training["fields"] == {}
    assert card.training["went_on"] is False
    assert not {"start_from", "workers"} & set(card.training)


def test_a_card_tells_of_the_fields_that_were_used_and_of_stages(tmp_path: Path) -> None:
    write(tmp_path / "mine", "train", [field(n) for n in range(5)])
    recipe = replace(TINY, start_from=str(tmp_path / "secret.safetensors"))
    card = publishing._card(recipe, "0" * 64, publishing.NEUTRAL, tmp_path)
    assert card.training["fields"] == {"mine": 3}
    assert card.training["went_on"] is True
    assert "secret" not in str(card)


def test_weights_of_another_training_are_refused(published: tuple[Path, ModelCard], tmp_path: Path) -> None:
    out, _ = published
    (tmp_path / "defocus.json").write_bytes((out / "defocus.json").read_bytes())
    data = bytearray((out / "defocus.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "defocus.safetensors").write_bytes(data)
    with pytest.raises(WeightsHashError):
        model_of(tmp_path / "defocus.json")


def test_a_network_that_sees_nothing_is_not_calibrated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    draw_little(monkeypatch)
    monkeypatch.setattr(
        publishing, "assessor", lambda card: lambda image, optics: Assessment.abstain("defocus", "blind")
    )
    with pytest.raises(ModelError, match="none of the validation fields"):
        publishing.calibrate(tmp_path / "any.json", fields=None, seed=1)


def test_real_fields_of_the_validation_split_are_calibrated_on_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_little(monkeypatch)
    names = [f"f{n}" for n in range(200) if split_of(f"cells/f{n}") == "validation"][:1]
    others = [f"f{n}" for n in range(200) if split_of(f"cells/f{n}") != "validation"][:2]
    (tmp_path / "cells").mkdir()
    for number, name in enumerate(names + others):
        image = make_specimen("filaments", (160, 160), pixel_um=0.3, seed=number)
        tifffile.imwrite(tmp_path / "cells" / f"{name}.tif", (image * 5000).astype(np.uint16))
    real = [case for case in publishing._validation(tmp_path, 3) if case.source == "cells"]
    assert [case.photons for case in real] == [10_000.0, 1_000.0, 100.0, 20.0]  # one field, once at every light level
    drawn = [case for case in publishing._validation(None, 3) if case.source != "cells"]
    assert len(drawn) == 12
    assert all(case.counts.shape == (128, 128) for case in drawn)


def stated(centre_px: NDArray[Any], sd_px: float) -> NDArray[Any]:
    """Normal distributions over the blur bins, shape (n, BLUR_BINS)."""
    p = np.diff(stats.norm.cdf((edges_px()[None] - centre_px[:, None]) / sd_px), axis=1)
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def found(stated_sd_px: float) -> tuple[float, float, float]:
    """Temperature and the coverage it gives, for answers that are off by a normal error with sd 4 px."""
    rng = np.random.default_rng(3)
    centre = rng.uniform(20, 40, 500)
    truth = centre + rng.normal(0.0, 4.0, 500)
    p = stated(centre, stated_sd_px)
    temperature, floor = publishing._best_temperature(p, truth), publishing.FLOOR
    scaled = p ** (1.0 / temperature)
    q = (1 - floor) * scaled / scaled.sum(axis=1, keepdims=True) + floor * trained_prior()
    rank = publishing._cumulative_at(q, truth)
    return temperature, float(np.mean(np.abs(rank - 0.5) <= 0.25)), float(np.mean(np.abs(rank - 0.5) <= 0.45))


@pytest.mark.parametrize(("stated_sd_px", "expected"), [(2.8, (1.4, 2.5)), (4.0, (0.75, 1.25)), (5.4, (0.5, 0.75))])
def test_too_sure_is_warmed_too_doubtful_is_cooled(stated_sd_px: float, expected: tuple[float, float]) -> None:
    temperature, cover50, cover90 = found(stated_sd_px)  # of a normal distribution: the square of the ratio of sds
    assert expected[0] <= temperature <= expected[1]
    assert cover50 == pytest.approx(0.5, abs=0.05)
    assert cover90 == pytest.approx(0.9, abs=0.02)


def test_the_truths_place_in_a_distribution() -> None:
    p = np.zeros((3, BLUR_BINS))
    p[:, 10:12] = 0.5
    edges = edges_px()
    rank = publishing._cumulative_at(p, np.asarray([0.0, edges[11], 0.5 * (edges[11] + edges[12])]))
    np.testing.assert_allclose(rank, [0.0, 0.5, 0.75])


def test_the_networks_own_probabilities_come_back_out_of_a_distribution() -> None:
    rng = np.random.default_rng(4)
    blur = rng.dirichlet(np.ones(BLUR_BINS))
    told = Posterior(blur, rng.random(BLUR_BINS), True).distribution(2.5)
    np.testing.assert_allclose(publishing._blur_probabilities(told.probability), blur, rtol=1e-6, atol=1e-12)
