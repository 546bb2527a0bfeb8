"""Optics as far as somebody said: what a file, a configuration or a command line knows of how an image was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from math import isfinite
from typing import Any
from xml.etree.ElementTree import Element, ParseError, fromstring

from parfocal import UsageError

UM_PER_UNIT: Mapping[str, float] = {
    "pm": 1e-6,
    "Å": 1e-4,
    "angstrom": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "\\u00B5m": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "m": 1e6,
    "meter": 1e6,
    "in": 25400.0,
    "inch": 25400.0,
}
"""Both code points of the micro sign are met in files, and ImageJ writes one of them escaped."""

IMMERSION_INDEX: Mapping[str, float] = {
    "Air": 1.0,
    "Water": 1.333,
    "WaterDipping": 1.333,
    "Glycerol": 1.47,
    "Oil": 1.515,
}
"""Refractive index of OME's immersion media at 23 degrees C and about 550 nm; "Multi" and "Other" say nothing."""


LARGEST_NA = 1.7
DRY = "assumed immersion index 1.0 (a dry objective), because the NA is below 1; --immersion-index says otherwise"


@dataclass(frozen=True)
class PartialOptics:
    """Optics of an image, each part None where unknown: what is not known is asked for, not guessed.

    Parameters
    ----------
    na, immersion_index, magnification : float, optional
        Of the objective.
    emission_um : float, optional
        Wavelength of the light that made the image (of the lamp, in transmitted light).
    pixel_um : float, optional
        Size of a pixel at the sample.
    """

    na: float | None = None
    immersion_index: float | None = None
    emission_um: float | None = None
    pixel_um: float | None = None
    magnification: float | None = None

    def over(self, other: PartialOptics) -> PartialOptics:
        """Keep these, and take from `other` what is None here."""
        return replace(other, **self.known())

    def known(self) -> dict[str, float]:
        """Return the parts that are known, as model options."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def missing(self) -> list[str]:
        """Name the parts that a model of defocus in um cannot do without and that are None.

        Magnification is not among them: with the pixel's size at the sample nothing depends on it.
        """
        return [field.name for field in fields(self) if getattr(self, field.name) is None and field.name != _OPTIONAL]

    def asked_for(self) -> str:
        """Name what is missing as options of the command line, separated by commas; empty where nothing is."""
        return ", ".join(f"--{_OPTION[name]}" for name in self.missing())

    def with_dry_index(self) -> PartialOptics:
        """Fill a missing immersion index with 1.0 where the NA can be that of a dry objective (below 1).

        The caller says so to the person: an immersion objective stopped down below NA 1 would be misjudged.
        """
        if self.immersion_index is None and self.na is not None and self.na < 1.0:
            return replace(self, immersion_index=1.0)
        return self

    def check(self, where: str) -> None:
        """Refuse values that no microscope has.

        Raises
        ------
        UsageError
            A part is not a positive finite number, or the NA is not below the immersion index.
        """
        for name, value in self.known().items():
            if not (isfinite(value) and value > 0):
                raise UsageError(f"{where}: {name} must be a positive number (got {value:g})")
        if self.na is not None and self.na > LARGEST_NA:
            raise UsageError(f"{where}: no objective has NA {self.na:g}; the largest is {LARGEST_NA:g}")
        if self.na is not None and self.immersion_index is not None and self.na >= self.immersion_index:
            raise UsageError(
                f"{where}: NA {self.na:g} is not below the immersion index {self.immersion_index:g}; "
                "give the index of the immersion medium (air 1.0, water 1.333, oil 1.515)"
            )


_OPTIONAL = "magnification"
_OPTION = {
    "na": "na",
    "immersion_index": "immersion-index",
    "emission_um": "emission-nm",
    "pixel_um": "pixel-um",
}


def length_um(value: float | None, unit: str | None) -> float | None:
    """Convert a length to um; None where value or unit say nothing, such as the unit "pixel"."""
    factor = UM_PER_UNIT.get(unit or "")
    if value is None or factor is None or not isfinite(value) or value <= 0:
        return None
    return float(value) * factor


def optics_of_config(microscope: Mapping[str, Any]) -> PartialOptics:
    """Optics in the ``microscope`` section of a configuration."""
    objective = microscope.get("objective") or {}
    emission_nm = microscope.get("emission_nm")
    return PartialOptics(
        na=objective.get("na"),
        immersion_index=objective.get("immersion_index"),
        magnification=objective.get("magnification"),
        emission_um=None if emission_nm is None else emission_nm / 1000.0,
        pixel_um=microscope.get("pixel_um"),
    )


def optics_of_ome(xml: str, image_index: int, channel_index: int) -> PartialOptics:
    """Optics in OME-XML, for one image and channel; nothing where the XML is not valid or says nothing.

    Read as what it is, XML with a dozen attributes of interest: building the whole data model (ome-types) for each of
    thousands of files takes as long as assessing them.
    """
    root = _parsed(xml)
    images = [] if root is None else _below(root, "Image")
    if root is None or image_index >= len(images):
        return PartialOptics()
    settings, pixels = (_below(images[image_index], name) for name in ("ObjectiveSettings", "Pixels"))
    objectives = [one for instrument in _below(root, "Instrument") for one in _below(instrument, "Objective")]
    used = [one for one in objectives if settings and one.get("ID") == settings[0].get("ID")]
    na = index = magnification = None
    for objective in used or (objectives if len(objectives) == 1 else []):
        na, magnification = _positive(objective, "LensNA"), _positive(objective, "NominalMagnification")
        index = IMMERSION_INDEX.get(objective.get("Immersion", ""))
    if settings:
        index = _positive(settings[0], "RefractiveIndex") or index
    emission_um = pixel_um = None
    for one in pixels[:1]:
        pixel_um = length_um(_positive(one, "PhysicalSizeX"), one.get("PhysicalSizeXUnit", "µm"))
        channels = _below(one, "Channel")
        if channel_index < len(channels):
            channel = channels[channel_index]
            unit = channel.get("EmissionWavelengthUnit", "nm")
            emission_um = length_um(_positive(channel, "EmissionWavelength"), unit)
    return PartialOptics(na, index, emission_um, pixel_um, magnification)


def z_step_of_ome(xml: str, image_index: int) -> float | None:
    """Distance of an image's planes along z in um; None where OME-XML does not say."""
    root = _parsed(xml)
    images = [] if root is None else _below(root, "Image")
    for pixels in _below(images[image_index], "Pixels")[:1] if image_index < len(images) else []:
        return length_um(_positive(pixels, "PhysicalSizeZ"), pixels.get("PhysicalSizeZUnit", "µm"))
    return None


@lru_cache(maxsize=4)
def _parsed(xml: str) -> Element | None:
    try:
        # Entities cannot blow up here: expat has limited them since 2.4.1, and tifffile parses the same text before.
        return fromstring(xml.encode())  # noqa: S314
    except (ParseError, ValueError):  # a vendor's broken metadata must not keep its pixels from being scored
        return None


def _below(element: Element, name: str) -> list[Element]:
    """Children of a name, whatever version of the schema their namespace is."""
    return [child for child in element if isinstance(child.tag, str) and child.tag.rpartition("}")[2] == name]


def _positive(element: Element, name: str) -> float | None:
    try:
        value = float(element.get(name, "nan"))
    except ValueError:
        return None
    return value if isfinite(value) and value > 0 else None
