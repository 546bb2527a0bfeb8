"""Model cards on disk: reading and writing them, and loading weights only if they are the ones the card describes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parfocal import did_you_mean
from parfocal.models.base import ModelCard, ModelError, WeightsHashError, WeightsMissingError

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGED = Path(__file__).parent / "weights"
"""Folder of the cards and weights that come with parfocal."""

NAMED = 3
"""Tensors that an error names; of sixty nobody reads more."""

_FIELDS = {field.name: field for field in dataclasses.fields(ModelCard)}
_REQUIRED = ("name", "version", "architecture", "weights_file", "weights_sha256")
_MAPPINGS = ("input", "training", "measured")


def packaged_card_path(name: str) -> Path:
    """Path of the card of a model that comes with parfocal; raises `ModelError` if there is none of that name."""
    path = PACKAGED / f"{name}.json"
    if not path.is_file():
        known = sorted(card.stem for card in PACKAGED.glob("*.json"))
        there = ", ".join(known) or "none"
        raise ModelError(f"no packaged weights named {name!r}{did_you_mean(name, known)}; there are: {there}")
    return path


def load_card(path: Path) -> ModelCard:
    """Read a card.

    Raises
    ------
    ModelError
        No such file, not JSON, unknown or missing keys, wrong types, numbers that are not finite, or a weights file
        outside the card's own folder.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise ModelError(f"model card {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelError(f"model card {path} is not valid JSON: {error}") from error
    problem = _problem(data)
    if problem:
        raise ModelError(f"model card {path}: {problem}")
    return ModelCard(**{**data, "notes": tuple(data.get("notes", ()))})


def save_card(card: ModelCard, path: Path) -> None:
    """Write a card as JSON; raises `ModelError` for a card that `load_card` would refuse."""
    data = dataclasses.asdict(card)
    data["notes"] = list(card.notes)
    problem = _problem(data)
    if problem:
        raise ModelError(f"model card {card.name!r} is not fit to be written: {problem}")
    try:
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelError(f"model card {card.name!r} is not plain JSON: {error}") from error
    path.write_text(text + "\n", encoding="utf-8")


def weights_path(card: ModelCard, card_path: Path) -> Path:
    """Where the card's weights lie: beside the card."""
    return card_path.parent / card.weights_file


def read_weights(card: ModelCard, path: Path) -> bytes:
    """Bytes of the weight file, verified: what is hashed is what is returned.

    Raises
    ------
    WeightsMissingError
        No such file.
    WeightsHashError
        The file is not the one the card describes.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsMissingError(
            f"weights of model {card.name!r} {card.version} cannot be read: {path}: {error.strerror or error}; "
            f"reinstall parfocal, or make them with `parfocal train {card.name}`"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != card.weights_sha256:
        raise WeightsHashError(
            f"weights of model {card.name!r} {card.version} are not those its card describes: {path} has sha256 "
            f"{found}, the card says {card.weights_sha256}; the file is damaged or was exchanged"
        )
    return data


def load_weights(card: ModelCard, path: Path) -> dict[str, Tensor]:
    """State dict of the verified weight file (safetensors: data, never code).

    Raises
    ------
    WeightsMissingError, WeightsHashError
        See `read_weights`.
    ModelError
        The file is not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = read_weights(card, path)
    try:
        return load(data)
    except SafetensorError as error:
        raise ModelError(f"weights of model {card.name!r}: {path} is not a safetensors file: {error}") from error


def fill(network: nn.Module, state: Mapping[str, Tensor], path: Path, what: str = "") -> None:
    """Put the weights of a file into a network, which keeps its own precision.

    Parameters
    ----------
    network : Module
    state : mapping of str to Tensor
    path : Path
        Of the file, for the message.
    what : str
        What a person calls the network; its class by default.

    Raises
    ------
    ModelError
        They are those of another architecture: one line that names the file and the first few differences.
    """
    own = network.state_dict()
    problems = [
        _some("lacks", [name for name in own if name not in state]),
        _some("has", [name for name in state if name not in own]),
        _some("other shapes of", [name for name in own if name in state and own[name].shape != state[name].shape]),
    ]
    differences = "; ".join(problem for problem in problems if problem)
    if differences:
        raise ModelError(
            f"weights in {path} are not those of a {what or type(network).__name__} but of another architecture, "
            f"and do not fit ({differences}): give the card that belongs to them, or train them again"
        )
    network.load_state_dict(dict(state))


def load_into(network: nn.Module, card: ModelCard, card_path: Path, what: str = "") -> None:
    """Load the verified weights of a card into a network; raises what `load_weights` and `fill` do."""
    path = weights_path(card, card_path)
    fill(network, load_weights(card, path), path, what)


def save_weights(state: Mapping[str, Tensor], path: Path) -> str:
    """Write a state dict as safetensors; returns its sha256 for the card."""
    from safetensors.torch import save

    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()})
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _some(what: str, names: Sequence[str]) -> str:
    """The first few of many names, and how many more there are."""
    if not names:
        return ""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{what} {', '.join(names[:NAMED])}{more}"


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _problem(data: Any) -> str:
    """Say what is wrong with a card's content, or nothing."""
    if not isinstance(data, dict):
        return "expected an object"
    for key in data:
        if key not in _FIELDS:
            return f"unknown key {key!r}{did_you_mean(str(key), _FIELDS)}"
    for key in _REQUIRED:
        if not isinstance(data.get(key), str) or not data[key]:
            return f"{key!r} must be a text that is not empty (got {data.get(key)!r})"
    for key in _MAPPINGS:
        if not isinstance(data.get(key, {}), Mapping):
            return f"{key!r} must be an object (got {data[key]!r})"
    notes = data.get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        return f"'notes' must be a list of texts (got {notes!r})"
    if not _finite(data):
        return "holds a number that is not finite"
    return _file_problem(data["weights_file"]) or _hash_problem(data["weights_sha256"])


def _file_problem(name: str) -> str:
    # The card must not be able to point anywhere but beside itself, on any platform.
    if name in {".", ".."} or any(character in name for character in "/\\:\0"):
        return f"'weights_file' must be a plain file name beside the card (got {name!r})"
    return ""


def _hash_problem(text: str) -> str:
    if len(text) != 64 or any(character not in "0123456789abcdef" for character in text):
        return f"'weights_sha256' must be 64 lower-case hexadecimal digits (got {text!r})"
    return ""


def _finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_finite(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(_finite(item) for item in value)
    return not isinstance(value, float) or math.isfinite(value)
