"""`parfocal train sted-quality` and `evaluate sted-quality`: from the simulator, or from a lab's rated images."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parfocal import UsageError
from parfocal.models.training.arguments import count, need_file

RATED_ONLY = ("scores", "pixel_um", "gain", "offset")
PEERS = ("robitaille", "compact", "both")


def train_sted_quality(argv: Sequence[str]) -> int:
    """Train the network of STED quality; weights and card go to ``--out``.

    Without --images it learns from simulated frames, whose quality the simulator knows. With --images and --scores it
    goes on from the shipped weights (or --start-from) with images that somebody has rated.
    """
    options = _train_parser().parse_args(list(argv))
    if options.images is not None:
        return _rated(options)
    for name in RATED_ONLY:
        if getattr(options, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} goes with --images, which is not given")
    from parfocal.models.training.evaluate_sted_quality import evaluate, render
    from parfocal.models.training.sted_quality_publish import add_tables, publish
    from parfocal.models.training.train_sted_quality import train, validation_frames

    recipe = _recipe(options)
    need_file("--start-from", options.start_from)
    networks = train(recipe, options.out, start_from=[options.start_from] if options.start_from else [])
    held_out = validation_frames(recipe)
    cards = [publish(network, recipe, held_out, options.out) for network in networks.values()]
    if options.tables:
        found = evaluate(cards, recipe=recipe, per_fifth=options.per_fifth)
        for card in cards:
            add_tables(card, found)
        sys.stdout.write(render(found) + "\n")
    sys.stdout.write("".join(f"{card}\n" for card in cards))
    return 0


def evaluate_sted_quality(argv: Sequence[str]) -> int:
    """Print the tables of STED quality: the shipped card (or others) and simple peers, on what none has learned from.

    With --choices it prints confusion and domination (Robitaille 2018) of recorded choices instead.
    """
    parser = argparse.ArgumentParser(prog="parfocal evaluate sted-quality", description=evaluate_sted_quality.__doc__)
    parser.add_argument("--card", type=Path, action="append", default=[], help="other cards than the shipped one")
    parser.add_argument("--per-fifth", type=count, default=40, help="frames of each fifth of the range, in every row")
    parser.add_argument("--seed", type=int, help="of the test frames and the peers; by default that of the card")
    parser.add_argument("--choices", type=Path, help="CSV with tester, target, choice of a user study")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(list(argv))
    if options.choices is not None:
        return _study(options)
    for card in options.card:
        need_file("--card", card)
    from parfocal.models.cards import packaged_card_path
    from parfocal.models.training.evaluate_sted_quality import evaluate, recipe_of, render

    cards = options.card or [packaged_card_path("sted_quality")]
    found = evaluate(cards, recipe=recipe_of(cards[0], options.seed), per_fifth=options.per_fifth)
    sys.stdout.write((json.dumps(found, indent=1) if options.json else render(found)) + "\n")
    return 0


def _rated(options: argparse.Namespace) -> int:
    if options.scores is None or options.pixel_um is None:
        raise UsageError("--images needs --scores (a CSV with path and score) and --pixel-um")
    if not (math.isfinite(options.pixel_um) and options.pixel_um > 0):
        raise UsageError(f"--pixel-um must be positive (got {options.pixel_um:g})")
    gain = 1.0 if options.gain is None else options.gain
    if not (math.isfinite(gain) and gain > 0):
        raise UsageError(f"--gain must be positive (got {gain:g})")
    need_file("--start-from", options.start_from)
    from parfocal.models.training.train_sted_rated import RatedRecipe, train_rated

    recipe = RatedRecipe(
        pixel_um=options.pixel_um, gain=gain, offset=options.offset or 0.0, seed=options.seed, epochs=options.epochs,
        threads=options.threads,
    )  # fmt: skip
    card, words = train_rated(options.images, options.scores, recipe, options.out, start_from=options.start_from)
    sys.stdout.write(f"{words}\n{card}\n")
    return 0


def _recipe(options: argparse.Namespace) -> Any:
    from parfocal.models.training.sted_quality_recipe import StedRecipe

    names = {"compact": ("StedQualityNet",), "robitaille": ("RobitailleNet",)}
    networks = names.get(options.network, ("StedQualityNet", "RobitailleNet"))
    return StedRecipe(
        networks=networks, seed=options.seed, chunks=options.chunks, chunk_frames=options.frames, passes=options.passes,
        size_px=options.size_px, batch=options.batch, learning_rate=options.learning_rate, average=options.average,
        structures=options.structures, specimens=options.specimens, threads=options.threads,
        validation_frames=options.validation_frames,
        validate_every=options.validate_every, checkpoint_every=options.checkpoint_every,
    )  # fmt: skip


def _study(options: argparse.Namespace) -> int:
    from parfocal.models.training.sted_choices import read_choices, study

    need_file("--choices", options.choices)
    rows = study(read_choices(options.choices))
    if options.json:
        told = [
            {
                "low": one.low, "high": one.high, "testers": one.testers,
                "confusion": _plain(one.confusion), "domination": _plain(one.domination),
            }
            for one in rows
        ]  # fmt: skip
        sys.stdout.write(json.dumps(told, indent=1) + "\n")
        return 0
    lines = ["| target | testers | confusion | domination |", "|---|---|---|---|"]
    for one in rows:
        cells = (_words(one.confusion), _words(one.domination))
        lines.append(f"| {one.low:.2f}-{one.high:.2f} | {one.testers} | {cells[0]} | {cells[1]} |")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _words(measured: tuple[float, float]) -> str:
    mean, sd = measured
    if not math.isfinite(mean):
        return "undefined"
    return f"{mean:.2f} ± {sd:.2f}" if math.isfinite(sd) else f"{mean:.2f}"


def _plain(measured: tuple[float, float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in measured]


def _train_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="parfocal train sted-quality", description=train_sted_quality.__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/sted-quality"))
    add("--network", choices=PEERS, default="compact", help="both: side by side, on the same frames")
    add("--seed", type=int, default=1)
    add("--chunks", type=count, default=170, help="of --frames new frames each")
    add("--frames", type=count, default=72)
    add("--passes", type=float, default=4.0, help="how often a frame is drawn, on average")
    add("--batch", type=count, default=32)
    add("--size-px", type=count, default=96)
    add("--structures", type=count, default=48, help="specimens of each kind and size of pixel")
    add("--specimens", type=count, default=6, help="scanned with one dye and one choice of settings")
    add("--learning-rate", type=float, default=2e-3)
    add("--average", type=float, default=0.99, help="of the moving average of the weights, a step")
    add("--threads", type=count, default=1)
    add("--validate-every", type=count, default=20, help="chunks")
    add("--checkpoint-every", type=count, default=20, help="chunks")
    add("--validation-frames", type=count, default=432)
    add("--tables", action=argparse.BooleanOptionalAction, default=True, help="measure the card's tables at the end")
    add("--per-fifth", type=count, default=40, help="frames of each fifth of the range, in every row of the tables")
    add(
        "--start-from",
        type=Path,
        help="card to go on from; with --images it is the shipped one by default",
    )
    rated = parser.add_argument_group("a lab's own rated images")
    rated.add_argument("--images", type=Path, help="folder of TIFF images, in photon counts")
    rated.add_argument("--scores", type=Path, help="CSV with the columns path (below --images) and score (0..1)")
    rated.add_argument("--pixel-um", type=float, help="size of their pixels")
    rated.add_argument("--gain", type=float, help="counts per photon (1)")
    rated.add_argument("--offset", type=float, help="counts without light (0)")
    rated.add_argument("--epochs", type=count, default=60, help="at most; it stops after 10 without improvement")
    return parser
