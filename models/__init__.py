"""What an image is worth: the registry that makes a model from its name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from parfocal import did_you_mean
from parfocal.models.base import Model, ModelError

__all__ = ["BUILT_IN", "ENTRY_POINT_GROUP", "ModelSpec", "available_models", "make_model"]

ENTRY_POINT_GROUP = "parfocal.models"

BUILT_IN: Mapping[str, str] = MappingProxyType(
    {
        "defocus": "parfocal.models.defocus:make",
        "frc": "parfocal.models.frc:make",
        "mm_style": "parfocal.models.artefacts:make",
        "quality": "parfocal.models.quality:make",
        "sharpness": "parfocal.models.sharpness:make",
        "sted_measures": "parfocal.models.sted_measures:make",
        "sted_quality": "parfocal.models.sted_quality:make",
    }
)
"""Name -> ``module:factory``; a factory takes the options and returns a `Model`. Imported only when asked for."""


@dataclass(frozen=True)
class ModelSpec:
    """A model by name and options: all that has to cross to another process to make it there.

    Parameters
    ----------
    name : str
        A built-in's name or that of an entry point of the group ``parfocal.models``.
    options : mapping
        Plain JSON.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> Model:
        """Make the model; raises what `make_model` raises."""
        return make_model(self.name, self.options)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"name": self.name, "options": dict(self.options)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ModelSpec:
        """Inverse of `to_json`."""
        return ModelSpec(str(data["name"]), dict(data.get("options", {})))


def make_model(name: str, options: Mapping[str, Any] | None = None) -> Model:
    """Make a model by its name.

    Parameters
    ----------
    name : str
        See `available_models`.
    options : mapping
        What the model takes, as plain JSON; a model refuses options it does not know.

    Raises
    ------
    ModelError
        Unknown name, a plugin that cannot be imported, or whatever the model's own factory finds wrong.
    """
    factory = _factory(name)
    model = factory(dict(options or {}))
    if not isinstance(model, Model):
        raise ModelError(f"model {name!r}: its factory returned a {type(model).__name__}, without `card` and `assess`")
    return model


def available_models() -> dict[str, str]:
    """Every name `make_model` takes, with the ``module:factory`` behind it; built-ins first, nothing imported."""
    plugins = {point.name: point.value for point in _plugins() if point.name not in BUILT_IN}
    return {**BUILT_IN, **dict(sorted(plugins.items()))}


def _plugins() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=ENTRY_POINT_GROUP))


def _factory(name: str) -> Any:
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    matching = [point for point in _plugins() if point.name == name]
    if not matching:
        known = available_models()
        raise ModelError(f"unknown model {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")
    if len({point.value for point in matching}) > 1:
        where = ", ".join(sorted(point.value for point in matching))
        raise ModelError(f"model {name!r} is offered by more than one plugin ({where}): remove all but one")
    try:
        return matching[0].load()
    except Exception as error:  # a plugin may fail in any way; it becomes one clear message
        raise ModelError(
            f"plugin {matching[0].value!r} of model {name!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
