"""Teaching the gate which kind a frame is of: frames of every kind, looked at, and a few small networks fitted to them.

Fitted to training fields, its limit chosen on validation fields; it knows nothing of a restoring network, so a new
U-Net needs no new one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parfocal import __version__
from parfocal.models.base import ModelCard, ModelError
from parfocal.models.cards import save_card, save_weights
from parfocal.models.restore.base import Blur, Verdict
from parfocal.models.restore.deconvolution import observe
from parfocal.models.restore.estimate import NotEstimatedError
from parfocal.models.restore.gate import Gate
from parfocal.models.restore.kinds import KINDS, LOOKS, OWN, KindJudge, look
from parfocal.models.training.chunks import Source, object_bank
from parfocal.models.training.evaluate_restore import Estimate, estimator
from parfocal.models.training.fields import Split, fields_used
from parfocal.models.training.restore_pairs import PairMaker
from parfocal.models.training.restore_strays import MAKERS, StrayMaker

SIZES_PX, SIZE_SHARES = (192, 256, 384), (0.25, 0.65, 0.10)
OWN_SHARE = 0.5
"""Of the frames drawn: the other half is evenly of the other makers."""
TOLD_SHARE, TOLD_SD = 0.25, 0.02
"""Of the frames: looked at as if a stage had told the defocus, with such an sd as a share of it."""
NAME = "restore_kinds"
LEAST_SD = 0.05
SPECIMENS = 250


@dataclass(frozen=True)
class KindRecipe:
    """How the kinds are learned.

    Parameters
    ----------
    fields : str, optional
        Folder of real in-focus fields; procedural specimens alone where absent.
    frames, validation : int
        Drawn of training and of validation fields; the gate's other checks leave some of them out.
    members, hidden, steps : int
        Networks whose mean is taken, width of their one layer, and full-batch steps of Adam.
    learning_rate, weight_decay, forgetting : float
        `forgetting`: share of a look's numbers that are hidden from a network in each step.
    most_refused : float
        Share of ordinary validation frames that the limit may refuse.
    seed : int
    """

    fields: str | None = None
    frames: int = 3000
    validation: int = 600
    members: int = 6
    hidden: int = 24
    steps: int = 500
    learning_rate: float = 0.01
    weight_decay: float = 0.02
    forgetting: float = 0.2
    most_refused: float = 0.01
    seed: int = 5


@dataclass(frozen=True)
class Looked:
    """Looks of frames, shape (n, LOOKS), the place of each one's kind in `KINDS`, and its maker."""

    looks: Tensor
    kinds: Tensor
    makers: tuple[str, ...]


def drawn(recipe: KindRecipe, split: Split, count: int, estimate: Estimate | None = None) -> Looked:
    """Draw frames of every kind from a split and look at them, with the blur as the defocus model tells it.

    Frames that the gate refuses before it looks at their kind are left out.
    """
    seed = recipe.seed + {"train": 1000, "validation": 2000, "test": 3000}[split]
    source = Source(Path(recipe.fields) if recipe.fields else None, split, SPECIMENS, max(SIZES_PX), seed)
    bank = object_bank(source)
    makers = {size: StrayMaker(PairMaker(bank, size_px=size, seed=seed)) for size in SIZES_PX}
    estimate = estimate or estimator()
    found = []
    for number, name in enumerate(_names(count, seed)):
        rng = np.random.default_rng((seed, number))
        maker = makers[int(rng.choice(SIZES_PX, p=SIZE_SHARES))]
        maker.rng = maker.pairs.rng = rng
        stray = maker.draw(name)
        try:
            blur = estimate(stray.frame, stray.optics)
        except NotEstimatedError:
            continue
        if rng.random() < TOLD_SHARE:
            blur = Blur(blur.optics, blur.defocus_um, TOLD_SD * abs(blur.defocus_um))
        stop = Gate().before("", stray.frame, stray.frame, blur)
        if stop is None or stop.verdict is not Verdict.REFUSED:
            with torch.inference_mode():
                found.append((look(stray.frame, observe(stray.frame, blur), blur), KINDS.index(stray.kind), name))
    if not found:
        raise ModelError("the gate refuses every frame before it is looked at: there is nothing to learn the kinds on")
    looks, kinds, names = zip(*found, strict=True)
    return Looked(torch.stack(looks), torch.tensor(kinds), tuple(names))


def _names(count: int, seed: int) -> Iterator[str]:
    """Makers by turns, half of them a specimen's own."""
    rng = np.random.default_rng(seed)
    own = [name for name, (kind, _) in MAKERS.items() if kind == OWN]
    others = [name for name in MAKERS if name not in own]
    for number in range(count):
        if rng.random() < OWN_SHARE:
            yield own[number % len(own)]
        else:
            yield others[int(rng.integers(len(others)))]


def fit(looked: Looked, recipe: KindRecipe) -> KindJudge:
    """Fit the networks, every one to a draw with replacement of the frames; the limit is not chosen yet."""
    generator = torch.Generator().manual_seed(recipe.seed)
    looks, kinds = looked.looks, looked.kinds
    mean, sd = looks.mean(dim=0), looks.std(dim=0).clamp(min=LEAST_SD)
    scaled = ((looks - mean) / sd).clamp(-4.0, 4.0)
    members, hidden = recipe.members, recipe.hidden
    inward = (torch.randn(members, hidden, LOOKS, generator=generator) / LOOKS**0.5).requires_grad_()
    outward = (torch.randn(members, len(KINDS), hidden, generator=generator) / hidden**0.5).requires_grad_()
    biases = [torch.zeros(members, width, requires_grad=True) for width in (hidden, len(KINDS))]
    groups: list[dict[str, Any]] = [
        {"params": [inward, outward], "weight_decay": 10.0 * recipe.weight_decay}, {"params": biases},
    ]  # fmt: skip
    optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=recipe.steps)
    weight = _weights(kinds)
    share = torch.stack([
        torch.bincount(torch.randint(len(looks), (len(looks),), generator=generator), minlength=len(looks))
        for _ in range(members)
    ]) * weight  # fmt: skip
    kept_share = 1.0 - recipe.forgetting
    for _ in range(recipe.steps):
        seen = (torch.rand(members, *scaled.shape, generator=generator) < kept_share) / kept_share
        within = torch.tanh((scaled * seen) @ inward.transpose(1, 2) + biases[0][:, None])
        told = torch.log_softmax(within @ outward.transpose(1, 2) + biases[1][:, None], dim=2)
        of_kind = told.gather(2, kinds.expand(members, -1)[..., None])[..., 0]
        loss = -(of_kind * share).sum() / share.sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    inside, outside = (value.detach() for value in biases)
    return KindJudge(mean, sd, inward.detach(), inside, outward.detach(), outside, limit=0.5)


def _weights(kinds: Tensor) -> Tensor:
    """Of every frame: own ones as much as all others, which count alike by kind."""
    many = torch.bincount(kinds, minlength=len(KINDS)).clamp(min=1).float()
    by_kind = 0.5 / (len(KINDS) - 1) / many
    by_kind[KINDS.index(OWN)] = 0.5 / many[KINDS.index(OWN)]
    return by_kind[kinds]


def limit_of(judge: KindJudge, ordinary: Tensor, most_refused: float) -> float:
    """Which limit refuses so many of ordinary looks (n, LOOKS); never less than an even chance."""
    other = [1.0 - judge.likely(one)[OWN] for one in ordinary]
    return max(0.5, float(np.quantile(other, 1.0 - most_refused)))


def publish_kinds(recipe: KindRecipe, out: Path) -> ModelCard:
    """Draw, fit, choose the limit and write ``restore_kinds.safetensors`` and ``restore_kinds.json`` into `out`."""
    estimate = estimator()
    judge = fit(drawn(recipe, "train", recipe.frames, estimate), recipe)
    held_out = drawn(recipe, "validation", recipe.validation, estimate)
    judge = replace(
        judge, limit=limit_of(judge, held_out.looks[held_out.kinds == KINDS.index(OWN)], recipe.most_refused)
    )
    return write_kinds(judge, recipe, out, refused_by_maker(judge, held_out))


def refused_by_maker(judge: KindJudge, looked: Looked) -> dict[str, dict[str, float]]:
    """Of every maker's frames: how many, and the share that the judge refuses."""
    refused: dict[str, list[bool]] = {}
    for one, name in zip(looked.looks, looked.makers, strict=True):
        refused.setdefault(name, []).append(bool(judge.reason(judge.likely(one))))
    return {name: {"frames": len(all_), "refused": float(np.mean(all_))} for name, all_ in sorted(refused.items())}


def write_kinds(
    judge: KindJudge, recipe: KindRecipe, out: Path, validation: Mapping[str, Mapping[str, float]]
) -> ModelCard:
    """Write a judge and its card."""
    out.mkdir(parents=True, exist_ok=True)
    sha = save_weights(judge.state(), out / f"{NAME}.safetensors")
    card = ModelCard(
        name=NAME, version=__version__, architecture=KindJudge.__name__, weights_file=f"{NAME}.safetensors",
        weights_sha256=sha, input={"kinds": list(KINDS), "look": LOOKS},
        training={**asdict(recipe), "fields": fields_used(recipe.fields), "makers": list(MAKERS)},
        measured={"limit": judge.limit, "validation": {name: dict(held) for name, held in validation.items()}},
        notes=(
            "Splits are by field or cell, never by patch; the limit is chosen on validation fields.",
            "A frame is refused if any kind but 'own' is likelier than the limit; the likeliest says why.",
        ),
    )  # fmt: skip
    save_card(card, out / f"{NAME}.json")
    return card
