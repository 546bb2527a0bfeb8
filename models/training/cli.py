"""`parfocal train defocus` and `parfocal evaluate defocus`: their own options, their tables."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from parfocal import UsageError
from parfocal.models.precision import CHOICES
from parfocal.models.training.arguments import FIELDS_HELP, count, need_file, need_folder, positive

TABLES_SEED = 2026


def train_defocus(argv: Sequence[str]) -> int:
    """Train one of the two networks from seeds; weights, recipe and card go to ``--out``."""
    parser = argparse.ArgumentParser(prog="parfocal train defocus", description=train_defocus.__doc__)
    parser.add_argument("--architecture", choices=("compact", "yang2018"), default="compact")
    parser.add_argument("--fields", type=Path, help=FIELDS_HELP)
    parser.add_argument("--out", type=Path, default=Path("runs/defocus"))
    parser.add_argument("--chunks", type=count, default=300, help="of new examples (default %(default)s)")
    parser.add_argument("--chunk-examples", type=count, default=256, help="made at a time (default %(default)s)")
    parser.add_argument(
        "--passes", type=positive, default=2.0, help="how often one is learnt from (default %(default)s)"
    )
    parser.add_argument("--size-px", type=count, default=256, help="side of the examples (default %(default)s)")
    parser.add_argument("--batch", type=count, default=32, help="examples a step (default %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=33)
    parser.add_argument("--workers", type=int, default=1, help="processes that make examples; 0: none beside this one")
    parser.add_argument("--threads", type=count, default=1)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--precision", choices=CHOICES, default="auto", help="auto: bfloat16 where hardware has it")
    parser.add_argument("--start-from", type=Path, help="weights to go on from (safetensors)")
    parser.add_argument(
        "--tables", action=argparse.BooleanOptionalAction, default=True, help="measure the card's tables at the end"
    )
    options = parser.parse_args(list(argv))
    need_folder("--fields", options.fields)
    need_file("--start-from", options.start_from)
    if options.out.exists() and not options.out.is_dir():
        raise UsageError(f"--out {options.out}: is no folder")
    from parfocal.models.defocus_net import WINDOW_PX
    from parfocal.models.training.fields import check_fields
    from parfocal.models.training.publish import publish
    from parfocal.models.training.train_defocus import Recipe, train

    if options.size_px < WINDOW_PX:
        raise UsageError(f"--size-px {options.size_px}: the network looks at windows of {WINDOW_PX} px, so no less")
    check_fields(options.fields)
    recipe = Recipe(
        architecture=options.architecture, chunks=options.chunks, chunk_examples=options.chunk_examples,
        passes=options.passes, size_px=options.size_px, batch=options.batch,
        learning_rate=options.learning_rate, seed=options.seed, workers=options.workers, threads=options.threads,
        device=options.device, precision=options.precision,
        fields=str(options.fields) if options.fields else None,
        start_from=str(options.start_from) if options.start_from else None,
    )  # fmt: skip
    network = train(recipe, options.out)
    if options.architecture == "compact":
        publish(network, recipe, options.out, fields=options.fields)
        if options.tables:
            _into_card(options.out / "defocus.json", options.fields)
    return 0


def _into_card(card: Path, fields: Path | None) -> None:
    """Measure what `parfocal evaluate defocus` prints, and keep it with the weights that it is true of."""
    from parfocal.models.training.card_tables import add_tables
    from parfocal.models.training.tables import tables

    add_tables(card, tables(fields=fields, stacks=None, yang=None, card=card, limit=None, seed=TABLES_SEED))


def evaluate_defocus(argv: Sequence[str]) -> int:
    """Print the tables of the defocus card: held-out fields and optics, intervals, empty fields, real stacks."""
    parser = argparse.ArgumentParser(prog="parfocal evaluate defocus", description=evaluate_defocus.__doc__)
    parser.add_argument("--fields", type=Path, help="folder of real in-focus fields; without it: procedural ones")
    parser.add_argument("--stacks", type=Path, help="folder of focus series with a truth.csv")
    parser.add_argument("--yang", type=Path, help="weights of the paper's network, retrained (safetensors)")
    parser.add_argument("--card", type=Path, help="another card than the packaged one")
    parser.add_argument("--limit", type=count, help="at most so many fields of each kind")
    parser.add_argument("--seed", type=int, default=TABLES_SEED)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(list(argv))
    need_folder("--fields", options.fields)
    need_folder("--stacks", options.stacks)
    if options.stacks is not None:
        need_file("--stacks", options.stacks / "truth.csv")
    need_file("--yang", options.yang)
    need_file("--card", options.card)
    from parfocal.models.training.card_tables import plain
    from parfocal.models.training.tables import render, tables

    found = tables(
        fields=options.fields, stacks=options.stacks, yang=options.yang, card=options.card, limit=options.limit,
        seed=options.seed,
    )  # fmt: skip
    sys.stdout.write((json.dumps(plain(found), indent=1) if options.json else render(found)) + "\n")
    return 0
