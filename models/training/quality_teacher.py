"""A trained network of the paper as teacher: what it says of every patch, in its pupil's units."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from parfocal import UsageError
from parfocal.models.cards import load_card, load_weights, weights_path
from parfocal.models.quality_labels import LabelScale
from parfocal.models.quality_net import FoldedPaperNet, PaperQualityNet, gathered, patches_of

FRAMES = 4
"""Frames of a batch that the teacher looks at: it costs a hundred times what its pupil does."""


class Teacher:
    """The network of a card, frozen.

    Parameters
    ----------
    card : Path
        Of a `PaperQualityNet` with one target.
    scaling : str
        How its pupil's frames are scaled; it must know them scaled so too.
    device : torch.device

    Raises
    ------
    UsageError
        Not the paper's network, or taught with another scaling.
    ModelError
        The card or its weights cannot be used.
    """

    def __init__(self, card: Path, scaling: str, device: torch.device) -> None:
        held = load_card(card)
        if held.architecture != "PaperQualityNet":
            raise UsageError(f"teacher {card}: {held.architecture} is not the paper's network")
        if held.input.get("scaling") != scaling:
            raise UsageError(f"teacher {card} knows frames scaled {held.input.get('scaling')!r}, not {scaling!r}")
        network = PaperQualityNet()
        state = load_weights(held, weights_path(held, card))
        network.load_state_dict({name: value.float() for name, value in state.items()})
        folded = FoldedPaperNet(network.eval()).to(device).requires_grad_(False).eval()
        self._network = folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        ((self.target, labels),) = held.training["labels"].items()
        self._labels = LabelScale.from_json(self.target, labels)

    def lesson(self, images: Tensor, labels: Mapping[str, LabelScale]) -> Tensor:
        """Quality of the patches of the first few frames (n, 1, h, w), z-scored as the pupil's labels are."""
        mine, yours = self._labels, labels[self.target]
        if mine.form != yours.form:
            raise UsageError(f"the teacher says {self.target} as {mine.form}, its pupil as {yours.form}")
        some = images[:FRAMES]
        with torch.no_grad():
            patches = patches_of(some).contiguous(memory_format=torch.channels_last)
            quality, weight = self._network(patches)
            said = gathered(quality, weight, some).patch_quality
        return (mine.unit(said) - yours.mean) / yours.sd
