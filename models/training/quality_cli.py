"""`parfocal train quality` and `parfocal evaluate quality`: their own options, a card, the same tables."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parfocal import UsageError
from parfocal.models.precision import CHOICES
from parfocal.models.training.arguments import FIELDS_HELP

TABLE_FIELDS_HELP = (
    "folder of real in-focus fields; without it: procedural ones. Real bad images, for the table that sets them below "
    "clean ones, are looked for in its folders vignetted (uneven light) and live_low_snr (few photons)"
)
Peer = tuple[str, Mapping[str, Any], tuple[str, ...]]


def train_quality(argv: Sequence[str]) -> int:
    """Train a quality network from seeds; weights, recipe, card and its tables go to ``--out``."""
    options = _train_parser().parse_args(list(argv))
    _folder("--fields", options.fields)
    _folder("--stacks", options.stacks)
    from parfocal.models.training.card_tables import add_tables
    from parfocal.models.training.fields import SPLITS, check_fields
    from parfocal.models.training.quality_publish import publish
    from parfocal.models.training.quality_recipe import QualityRecipe
    from parfocal.models.training.train_quality import train

    recipe = QualityRecipe(
        network=options.network, target=_target(options), scaling=options.scaling, mm_form=options.mm_form,
        chunks=options.chunks, chunk_images=options.images, passes=options.passes, batch=options.batch,
        patches=options.patches, learning_rate=options.learning_rate, mixed=options.mixed, graded=options.graded,
        order=options.order, ladders=options.ladders, heads_only=options.heads_only,
        teachers=tuple(map(str, options.teacher)),
        seed=options.seed, size_px=options.size_px,
        procedural=options.procedural, fields=str(options.fields) if options.fields else None,
        workers=options.workers, threads=options.threads, device=options.device, precision=options.precision,
        average=options.average,
        buffer_chunks=options.buffer_chunks, checkpoint_every=options.checkpoint_every,
        validate_every=options.validate_every, start_from=str(options.start_from) if options.start_from else None,
    )  # fmt: skip
    check_fields(options.fields, SPLITS if options.tables else ("train", "validation"))
    card = publish(train(recipe, options.out), options.out, images=options.validation_images)
    if options.tables:
        found, text = _tables([peer_of(card)], options)
        add_tables(card, found)
        (options.out / "tables.md").write_text(text + "\n", encoding="utf-8")
        sys.stdout.write(text + "\n")
    sys.stdout.write(f"{card}\n")
    return 0


def evaluate_quality(argv: Sequence[str]) -> int:
    """Print the tables of the quality cards: labels, order of levels, local maps, camera, real bad images."""
    parser = argparse.ArgumentParser(prog="parfocal evaluate quality", description=evaluate_quality.__doc__)
    parser.add_argument("--fields", type=Path, help=TABLE_FIELDS_HELP)
    parser.add_argument("--card", type=Path, action="append", default=[], help="other cards than the packaged ones")
    _add_table_options(parser)
    parser.add_argument("--figure", type=Path, help="draw quality along the focus series of --stacks into this SVG")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(list(argv))
    _folder("--fields", options.fields)
    _folder("--stacks", options.stacks)
    if options.figure is not None and options.stacks is None:
        raise UsageError("--figure draws the focus series of --stacks, which is not given")
    from parfocal.models.training.quality_series import figure
    from parfocal.models.training.quality_tables import SHIPPED

    found, text = _tables(peers_of(options.card) or SHIPPED, options)
    if options.figure is not None:
        options.figure.write_text(figure(found.get("series", [])), encoding="utf-8")
    sys.stdout.write((json.dumps(found, indent=1) if options.json else text) + "\n")
    return 0


def peer_of(card: Path) -> Peer:
    """A card as a row of the tables: name, options of the model `quality`, and the targets it answers."""
    from parfocal.models.cards import load_card
    from parfocal.models.quality_runtime import labels_of

    held = load_card(card)
    targets = tuple(labels_of(held))
    network = "paper" if held.architecture == "PaperQualityNet" else "student"
    target = "mm" if "mm" in targets else targets[0]
    return held.name, {"network": network, "target": target, "card": str(card)}, targets


def peers_of(cards: Sequence[Path]) -> list[Peer]:
    """Cards as rows of the tables; those that share a name with another are told by their folders as well."""
    peers = [peer_of(card) for card in cards]
    names = [name for name, _, _ in peers]
    return [
        (f"{card.resolve().parent.name}/{name}" if names.count(name) > 1 else name, options, targets)
        for card, (name, options, targets) in zip(cards, peers, strict=True)
    ]


def _tables(peers: Sequence[Peer], options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from parfocal.models.training.quality_tables import model_peers, render, tables

    found = tables(
        fields=options.fields, stacks=options.stacks, peers=model_peers(peers), images=options.table_images,
        samples=options.samples, seed=options.table_seed,
    )  # fmt: skip
    return found, render(found)


def _train_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="parfocal train quality", description=train_quality.__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--network", choices=("student", "paper"), default="student")
    add("--target", choices=("frc", "mm", "both"), help="the student learns both unless told otherwise")
    add("--fields", type=Path, help=f"{FIELDS_HELP}; folders vignetted and live_low_snr are bad images for the tables")
    add("--out", type=Path, default=Path("runs/quality"))
    add("--chunks", type=int, default=300, help="of --images new images each")
    add("--images", type=int, default=64)
    add("--passes", type=float, default=4.0, help="how often an image is drawn, on average")
    add("--batch", type=int, help="frames a step (student 16, the paper's network 1)")
    add("--patches", type=int, default=128, help="of each image a step, for the paper's network")
    add("--buffer-chunks", type=int, default=40, help="chunks that batches are drawn from")
    add("--size-px", type=int, default=256)
    add("--procedural", type=int, default=400, help="procedural specimens beside the fields")
    add("--learning-rate", type=float, help="greatest (student 2e-3, the paper's network 1e-4)")
    add("--average", type=float, default=0.995, help="of the moving average of the weights, a step")
    add("--mixed", type=float, default=0.25, help="share of the student's frames made of two")
    add("--graded", type=float, default=0.25, help="share of its blurred and noisy images that get worse downwards")
    add("--order", type=float, default=1.0, help="weight of the order of a map's patches in the student's loss")
    add("--ladders", type=int, default=0, help="in every step, so many specimens at five levels, to be put in order")
    add("--teacher", type=Path, action="append", default=[], help="card of a paper's network to imitate as well")
    add("--mm-form", choices=("logit", "probability"), default="logit")
    add("--scaling", choices=("fixed", "paper"), default="fixed", help="paper: least to greatest pixel, to compare")
    add("--seed", type=int, default=1)
    add("--workers", type=int, default=1, help="processes that make images; 0: none beside this one")
    add("--threads", type=int, default=1)
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--precision", choices=CHOICES, default="auto", help="auto: bfloat16 where the hardware has it")
    add("--start-from", type=Path, help="weights to go on from (safetensors, recipe.json beside them)")
    add("--heads-only", action="store_true", help="with --start-from: leave the student's trunk as it is")
    add("--checkpoint-every", type=int, default=20, help="chunks")
    add("--validate-every", type=int, default=0, help="chunks; 0: only at the end")
    add("--validation-images", type=int, default=384)
    add("--tables", action=argparse.BooleanOptionalAction, default=True, help="measure the card's tables at the end")
    _add_table_options(parser)
    return parser


def _add_table_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stacks",
        type=Path,
        help="folder of focus series (truth.csv), and of bbbc006/in_focus, bbbc006/z00_far: fields near and far",
    )
    parser.add_argument("--table-images", type=int, default=240, help="labelled images in the first table")
    parser.add_argument("--samples", type=int, default=24, help="specimens in the tables of levels")
    parser.add_argument("--table-seed", type=int, default=2026)


def _target(options: argparse.Namespace) -> str:
    if options.target:
        return str(options.target)
    if options.network == "paper":
        raise UsageError("--network paper has one output: add --target frc or --target mm")
    return "both"


def _folder(option: str, path: Path | None) -> None:
    if path is not None and not path.is_dir():
        raise UsageError(f"{option} {path}: there is no such folder")
