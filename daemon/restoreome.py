"""OME-XML of a restored image: what its channels are, which page is which plane, and the record of how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np

import parfocal
from parfocal.daemon.restorerows import Place
from parfocal.daemon.scoretable import encodable
from parfocal.drivers.recorded_stack import COMPUTED

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
SCHEMA = f"{NAMESPACE} {NAMESPACE}/ome.xsd"
LAYERS = ("raw", "restored (computed)", "refused", "sd (computed)")
"""What each channel of the source becomes, in this order; the last only where the method claims an sd."""
WARNING = (
    "The restored pixels are computed from the raw ones with an assumed blur: they are for looking at, and no measured "
    "intensities. Where `refused` is 1 they are the raw ones."
)


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image before its first plane is written.

    Parameters
    ----------
    name : str
        Of the source.
    size : tuple of int
        How many t, c, z the source has.
    shape : tuple of int
        Height and width of a plane.
    dtype : dtype
        Of what is written: float32, or float64 where the source's counts need it.
    pixel_um, z_step_um, na, immersion_index : float, optional
    emission_um : sequence of float or None
        Of each channel of the source.
    axes : str
        Those of t, c and z that the source names.
    """

    name: str
    size: Place
    shape: tuple[int, int]
    dtype: np.dtype[np.floating]
    pixel_um: float | None = None
    z_step_um: float | None = None
    na: float | None = None
    immersion_index: float | None = None
    emission_um: Sequence[float | None] = ()
    axes: str = ""

    @property
    def title(self) -> str:
        """The name without characters that XML has no place for."""
        return "".join(one if one.isprintable() else "?" for one in encodable(self.name))

    def channels(self, layers: int) -> list[str]:
        """Names of the channels written."""
        return [f"{name} c{c}" if self.size[1] > 1 else name for c in range(self.size[1]) for name in LAYERS[:layers]]

    def emission_of(self, channel: int) -> float | None:
        """Wavelength of a channel of the source."""
        return self.emission_um[channel] if channel < len(self.emission_um) else None


def ome_xml(facts: ImageFacts, layers: int, pages: Sequence[tuple[Place, int]], method: str, record: str) -> str:
    """Describe a file: `pages` has for every page, in order, its place in the source and its layer; ASCII."""
    root = Element("OME", {
        "xmlns": NAMESPACE, "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance", "xsi:schemaLocation": SCHEMA,
        "Creator": f"parfocal {parfocal.__version__}",
    })  # fmt: skip
    objective = _objective(root, facts)
    image = SubElement(root, "Image", {"ID": "Image:0", "Name": f"{facts.title}, restored by computation ({method})"})
    SubElement(image, "Description").text = WARNING
    if objective:
        SubElement(image, "InstrumentRef", {"ID": "Instrument:0"})
        index = {} if facts.immersion_index is None else {"RefractiveIndex": f"{facts.immersion_index:g}"}
        SubElement(image, "ObjectiveSettings", {"ID": "Objective:0", **index})
    _pixels(image, facts, layers, pages)
    SubElement(image, "AnnotationRef", {"ID": "Annotation:0"})
    annotations = SubElement(root, "StructuredAnnotations")
    comment = SubElement(annotations, "CommentAnnotation", {"ID": "Annotation:0", "Namespace": COMPUTED})
    SubElement(comment, "Value").text = record
    text: bytes = tostring(root, encoding="us-ascii", xml_declaration=True)
    return text.decode("ascii")


def _objective(root: Element, facts: ImageFacts) -> bool:
    if facts.na is None:
        return False
    instrument = SubElement(root, "Instrument", {"ID": "Instrument:0"})
    SubElement(instrument, "Objective", {"ID": "Objective:0", "LensNA": f"{facts.na:g}"})
    return True


def _pixels(image: Element, facts: ImageFacts, layers: int, pages: Sequence[tuple[Place, int]]) -> None:
    (t, c, z), (height, width) = facts.size, facts.shape
    kind = "float" if facts.dtype == np.float32 else "double"
    sizes = {"SizeX": width, "SizeY": height, "SizeZ": z, "SizeC": c * layers, "SizeT": t}
    steps = {"PhysicalSizeX": facts.pixel_um, "PhysicalSizeY": facts.pixel_um, "PhysicalSizeZ": facts.z_step_um}
    pixels = SubElement(image, "Pixels", {
        "ID": "Pixels:0", "DimensionOrder": "XYCZT", "Type": kind,
        **{name: str(size) for name, size in sizes.items()},
        **{name: repr(float(step)) for name, step in steps.items() if step is not None},
    })  # fmt: skip
    for number, name in enumerate(facts.channels(layers)):
        emission_um = facts.emission_of(number // layers)
        light = {} if emission_um is None else {"EmissionWavelength": repr(round(emission_um * 1000.0, 4))}
        attributes = {"ID": f"Channel:0:{number}", "Name": name, "SamplesPerPixel": "1", **light}
        SubElement(pixels, "Channel", attributes)
    for page, ((at_t, at_c, at_z), layer) in enumerate(pages):
        place = {"FirstT": at_t, "FirstC": at_c * layers + layer, "FirstZ": at_z, "IFD": page, "PlaneCount": 1}
        SubElement(pixels, "TiffData", {name: str(at) for name, at in place.items()})
