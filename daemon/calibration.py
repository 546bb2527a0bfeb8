"""A stored calibration: read, and refused where the microscope or the network is no longer the one it was made with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parfocal.daemon.config import Config, ConfigError
from parfocal.models import BUILT_IN

AGAIN = "calibrate again, or take policy.calibration out"


@dataclass(frozen=True)
class Calibration:
    """What ``parfocal calibrate`` stored, as far as a run needs it.

    Parameters
    ----------
    where : str
        The configuration's line that names it, for messages.
    response : mapping
        The table, for the policy.
    dof_um : float, optional
        Depth of field seen in it.
    model : str
        Whose numbers it holds.
    optics : mapping, optional
        What that model was told of the optics.
    pixel_um : float, optional
        Of the frames.
    weights_sha256 : str, optional
        Of the model.
    """

    where: str
    response: Mapping[str, Any]
    dof_um: float | None = None
    model: str = "defocus"
    optics: Mapping[str, Any] | None = None
    pixel_um: float | None = None
    weights_sha256: str | None = field(default=None)

    def check(self, config: Config, optics: Mapping[str, Any], pixel_um: float | None) -> None:
        """Refuse what would give other numbers than those measured.

        Parameters
        ----------
        config : Config
        optics : mapping
            What the model is told of the optics now.
        pixel_um : float, optional
            Of the frames now, once one is there.

        Raises
        ------
        ConfigError
            The optics, the pixel size or the network's weights are others.
        """
        if self.optics is not None:
            for name in sorted((set(self.optics) | set(optics)) - {"pixel_um"}):
                then, now = self.optics.get(name), optics.get(name)
                if not _same(then, now):
                    raise self._other(name, then, now)
        now_um = pixel_um or optics.get("pixel_um")
        if self.pixel_um is not None and now_um is not None and not _same(self.pixel_um, now_um):
            raise self._other("pixel_um", self.pixel_um, now_um)
        ours = _weights(config, self.model)
        if self.weights_sha256 is not None and ours is not None and ours != self.weights_sha256:
            raise ConfigError(
                f"{self.where}: was measured with other weights of the network ({self.weights_sha256[:12]}..., "
                f"now {ours[:12]}...): {AGAIN}"
            )

    def _other(self, name: str, then: Any, now: Any) -> ConfigError:
        said = ["not known" if value is None else f"{value}" for value in (then, now)]
        return ConfigError(f"{self.where}: was measured with {name} {said[0]}, now it is {said[1]}: {AGAIN}")


def read_calibration(config: Config) -> Calibration:
    """Read the file that ``policy.calibration`` names.

    Raises
    ------
    ConfigError
        It cannot be read, or is something else.
    """
    here, path = config.where("policy", "calibration"), Path(str(config.policy.calibration))
    strange = ConfigError(f"{here}: is not a calibration written by `parfocal calibrate` (got {path})")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{here}: cannot be read ({error.strerror}) (got {path})") from None
    except ValueError:
        raise strange from None
    if not isinstance(content, dict) or not isinstance(content.get("response", content), dict):
        raise strange
    model = content.get("model") or {}
    optics = content.get("optics")
    if not isinstance(model, dict) or not isinstance(optics, dict | None):
        raise strange
    sha = model.get("weights_sha256")
    return Calibration(
        here,
        content.get("response", content),
        _positive(content.get("dof_um")),
        str(model.get("name", "defocus")),
        optics,
        _positive(content.get("pixel_um")),
        sha if isinstance(sha, str) else None,
    )


def _positive(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    return float(value) if known else None


def _same(then: Any, now: Any) -> bool:
    if isinstance(then, int | float) and isinstance(now, int | float):
        return math.isclose(then, now, rel_tol=1e-6)
    return bool(then == now)


def _weights(config: Config, model: str) -> str | None:
    """Hash of the weights that a model of ours would load; None for a model of somebody else's."""
    from parfocal.models.cards import load_card, packaged_card_path

    if BUILT_IN.get(model) != f"parfocal.models.{model}:make" or model not in config.scoring.models:
        return None
    card = config.scoring.options.get(model, {}).get("card")
    return load_card(Path(card) if card else packaged_card_path(model)).weights_sha256
