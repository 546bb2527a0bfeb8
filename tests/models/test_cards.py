"""Model cards and weights: what is read is what was written, and nothing else is accepted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from parfocal.models import cards
from parfocal.models.base import ModelCard, ModelError, WeightsHashError, WeightsMissingError

STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.tensor([1, 2])}


def write(folder: Path) -> tuple[ModelCard, Path]:
    sha = cards.save_weights(STATE, folder / "net.safetensors")
    card = ModelCard("net", "1.2", "plain", "net.safetensors", sha, {"pixel_um": [0.1]}, {}, {"rate": 0.98}, ("a",))
    cards.save_card(card, folder / "net.json")
    return card, folder / "net.json"


def test_card_and_weights_come_back_as_they_were(tmp_path: Path) -> None:
    card, path = write(tmp_path)
    loaded = cards.load_card(path)
    assert loaded == card
    state = cards.load_weights(loaded, cards.weights_path(loaded, path))
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], STATE[name]) and state[name].dtype == STATE[name].dtype for name in STATE)


def test_missing_weights_say_how_to_get_them(tmp_path: Path) -> None:
    card, path = write(tmp_path)
    (tmp_path / "net.safetensors").unlink()
    with pytest.raises(WeightsMissingError, match="parfocal train net"):
        cards.load_weights(card, cards.weights_path(card, path))


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    card, path = write(tmp_path)
    weights = cards.weights_path(card, path)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(WeightsHashError, match="damaged or was exchanged"):
        cards.load_weights(card, weights)


def test_a_right_hash_of_something_else_is_no_safetensors(tmp_path: Path) -> None:
    import hashlib

    (tmp_path / "w").write_bytes(b"\x80\x04pickle")
    card = ModelCard("net", "1", "a", "w", hashlib.sha256(b"\x80\x04pickle").hexdigest())
    with pytest.raises(ModelError, match="not a safetensors file"):
        cards.load_weights(card, tmp_path / "w")


def mistakes() -> list[tuple[dict[str, Any], str]]:
    return [
        ({"wieghts_file": "x"}, "unknown key 'wieghts_file'; did you mean 'weights_file'"),
        ({"version": 2}, "'version' must be a text"),
        ({"architecture": ""}, "'architecture' must be a text that is not empty"),
        ({"weights_file": "../../etc/passwd"}, "plain file name"),
        ({"weights_file": "C:\\w"}, "plain file name"),
        ({"weights_file": ".."}, "plain file name"),
        ({"weights_sha256": "ABC"}, "64 lower-case"),
        ({"measured": [1]}, "'measured' must be an object"),
        ({"notes": "one"}, "'notes' must be a list"),
    ]


@pytest.mark.parametrize(("change", "message"), mistakes())
def test_a_malformed_card_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    _, path = write(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=message):
        cards.load_card(path)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"name": NaN}', '{"name": "a", "version": Infinity}'])
def test_what_is_not_a_card_at_all(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ModelError, match=r"c\.json"):
        cards.load_card(tmp_path / "c.json")


def test_a_card_with_nan_is_not_written(tmp_path: Path) -> None:
    card = ModelCard("net", "1", "a", "w", "0" * 64, measured={"rate": float("nan")})
    with pytest.raises(ModelError, match="not finite"):
        cards.save_card(card, tmp_path / "net.json")
    assert not (tmp_path / "net.json").exists()


def test_no_such_card(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        cards.load_card(tmp_path / "none.json")
    with pytest.raises(ModelError, match="no packaged weights named 'nothing-like-it'"):
        cards.packaged_card_path("nothing-like-it")


def test_a_packaged_card_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, path = write(tmp_path)
    monkeypatch.setattr(cards, "PACKAGED", tmp_path)
    assert cards.packaged_card_path("net") == path
    with pytest.raises(ModelError, match="did you mean 'net'"):
        cards.packaged_card_path("nett")
