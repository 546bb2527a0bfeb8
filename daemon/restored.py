"""What a restored preview shows of one frame: an image that was computed, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LABEL = "computed"
"""Goes with every restored image, wherever it is shown: nobody shall take it for data."""

RESTORED, IN_FOCUS, REFUSED, OFF = "restored", "in_focus", "refused", "off"


@dataclass(frozen=True)
class RestoredFrame:
    """One frame's restored preview.

    Parameters
    ----------
    method : str
        Of the restorer.
    verdict : {"restored", "in_focus", "refused", "off"}
        ``in_focus`` and ``refused``: the image is the frame as it is. ``off``: nothing is computed any more.
    reason : str
        For a person; empty where all of the frame was restored.
    index : int, optional
        Of the frame.
    defocus_um, defocus_sd_um : float, optional
        What the network said of it, and what the restoration rests on.
    image : mapping, optional
        As `parfocal.daemon.service.previews.preview` makes it.
    refused : mapping, optional
        ``rows``, ``columns``, ``cell_px``, ``cells`` (bytes, row by row, 1: refused, the pixels are the frame's own).
    took_ms : float, optional
        From the frame being handed over to this.
    simulated : bool
        Whether the frame was.
    """

    method: str
    verdict: str
    reason: str = ""
    index: int | None = None
    defocus_um: float | None = None
    defocus_sd_um: float | None = None
    image: Mapping[str, Any] | None = None
    refused: Mapping[str, Any] | None = None
    took_ms: float | None = None
    simulated: bool = False

    def content(self) -> dict[str, Any]:
        """Return it as an event holds it; without an image, one of no pixels."""
        image = self.image or {"width": 0, "height": 0, "factor": 1, "low": None, "high": None, "pixels": b""}
        return {
            "label": LABEL,
            "index": self.index,
            "method": self.method,
            "verdict": self.verdict,
            "reason": self.reason,
            "defocus_um": self.defocus_um,
            "defocus_sd_um": self.defocus_sd_um,
            **{name: image[name] for name in ("width", "height", "factor", "low", "high", "pixels")},
            "refused": None if self.refused is None else dict(self.refused),
            "took_ms": self.took_ms,
            "simulated": self.simulated,
        }

    @property
    def refused_share(self) -> float:
        """Share of the squares that were refused."""
        cells = b"" if self.refused is None else bytes(self.refused["cells"])
        return sum(cells) / len(cells) if cells else 0.0


def said_of(shown: RestoredFrame) -> str:
    """Return verdict and reason in a few words, without the defocus."""
    match shown.verdict:
        case "restored":
            return f"restored, {shown.reason}" if shown.reason else "restored"
        case "in_focus":
            return shown.reason or "in focus"
    return f"{shown.verdict}: {shown.reason}"
