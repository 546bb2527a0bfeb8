"""`parfocal train restore` and `parfocal evaluate restore`: their own options, their tables, a picture."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

from parfocal import UsageError
from parfocal.models.precision import CHOICES
from parfocal.models.restore import METHODS
from parfocal.models.training.arguments import FIELDS_HELP, count, need_file, need_folder

TRAINED = ("unet", "comi", "kinds")


def train_restore(argv: Sequence[str]) -> int:
    """Train a network that restores, or the judge of kinds of the gate; weights, recipe and card go to ``--out``."""
    options = _train_parser().parse_args(list(argv))
    need_folder("--fields", options.fields)
    need_file("--start-from", options.start_from)
    need_file("--vgg19", options.vgg19)
    if options.out.exists() and not options.out.is_dir():
        raise UsageError(f"--out {options.out}: is no folder")
    return {"unet": _train_unet, "comi": _train_comi, "kinds": _train_kinds}[str(options.method)](options)


def evaluate_restore(argv: Sequence[str]) -> int:
    """Print the tables of restoring: every method on the same frames, identity among them; refusals; focus series."""
    options = _evaluate_parser().parse_args(list(argv))
    need_folder("--fields", options.fields)
    need_folder("--stacks", options.stacks)
    if options.stacks is not None:
        need_file("--stacks", options.stacks / "truth.csv")
    cards = {"unet": options.card, "comi": options.comi}
    for option, path in (("--card", options.card), ("--comi", options.comi)):
        need_file(option, path)
    if options.figure is not None and options.figure.suffix.lower() != ".png":
        raise UsageError(f"--figure {options.figure}: the picture is a PNG, so its name must end with .png")
    from parfocal.models.training.evaluate_restore import peers

    made = peers(options.method or None, {name: path for name, path in cards.items() if path is not None})
    if options.figure is not None:
        from parfocal.models.training.restore_figure import figure

        figure(made, seed=options.seed).save(options.figure, optimize=True)
        sys.stdout.write(f"{options.figure}\n")
        return 0
    from parfocal.models.training.card_tables import plain
    from parfocal.models.training.restore_report import Plan, measure, render

    plan = Plan(
        options.fields, options.stacks, options.fields_count, options.size_px, options.bad_count, options.seed
    )  # fmt: skip
    found = measure(made, plan)
    text = json.dumps(plain(found), indent=1, allow_nan=False) if options.json else render(found)
    sys.stdout.write(text + "\n")
    return 0


def _train_unet(options: argparse.Namespace) -> int:
    from parfocal.models.restore.unet_net import STRIDE
    from parfocal.models.training.fields import check_fields
    from parfocal.models.training.restore_publish import publish_restore
    from parfocal.models.training.train_restore import RestoreRecipe, train

    recipe = _recipe(RestoreRecipe, options)
    if recipe.size_px % STRIDE:
        raise UsageError(f"--size-px {recipe.size_px}: the network halves it again and again: a multiple of {STRIDE}")
    check_fields(options.fields)
    publish_restore(train(recipe, options.out), recipe, options.out, fields=options.fields)
    sys.stdout.write(f"{options.out / 'restore.json'}\n")
    return 0


def _train_comi(options: argparse.Namespace) -> int:
    from parfocal.models.training.fields import check_fields
    from parfocal.models.training.train_comi import ComiRecipe, crop_px, publish_comi, read_progress, train
    from parfocal.models.training.train_defocus import pick_device

    recipe = _recipe(ComiRecipe, options)
    device = pick_device(recipe.device)
    try:
        crop_px(recipe, device)
    except ValueError as error:
        raise UsageError(f"--size-px: {error}") from error
    check_fields(options.fields, ("train",))
    network = train(recipe, options.out)
    publish_comi(network, recipe, options.out, read_progress(options.out).seconds, _machine(device.type))
    sys.stdout.write(f"{options.out / 'restore_comi.json'}\n")
    return 0


def _train_kinds(options: argparse.Namespace) -> int:
    from parfocal.models.training.fields import check_fields
    from parfocal.models.training.restore_kinds import KindRecipe, publish_kinds

    recipe = _recipe(KindRecipe, options)
    check_fields(options.fields)
    publish_kinds(recipe, options.out)
    sys.stdout.write(f"{options.out / 'restore_kinds.json'}\n")
    return 0


def _recipe(kind: Any, options: argparse.Namespace) -> Any:
    """The recipe of the options that were given; the others have its own defaults.

    Raises
    ------
    UsageError
        An option that the method does not take.
    """
    given = {
        name: value for name, value in vars(options).items() if value is not None and name not in ("method", "out")
    }
    taken = {field.name for field in fields_of(kind)}
    for name in given:
        if name not in taken:
            raise UsageError(f"--{name.replace('_', '-')}: --method {options.method} takes no such option")
    return kind(**{name: str(value) if isinstance(value, Path) else value for name, value in given.items()})


def _machine(device: str) -> str:
    """What trained, for the card."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()} processor, {torch.get_num_threads()} threads"


def _train_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="parfocal train restore", description=train_restore.__doc__,
        epilog="What is not given is as the method's recipe has it; it is written beside the weights.",
    )  # fmt: skip
    add = parser.add_argument
    add("--method", choices=TRAINED, required=True)
    add("--fields", type=Path, help=FIELDS_HELP)
    add("--out", type=Path, default=Path("runs/restore"))
    add("--procedural", type=count, help="procedural specimens beside the fields")
    add("--chunk-examples", type=count, help="pairs made at a time")
    add("--passes", type=count, help="how often a pair is learnt from")
    add("--buffer-chunks", type=count, help="chunks that batches are drawn from")
    add("--batch", type=count)
    add("--size-px", type=count, help="side of what is learnt from")
    add("--learning-rate", type=float)
    add("--seed", type=int)
    add("--workers", type=int, help="processes that make pairs; 0: none beside this one")
    add("--threads", type=count)
    add("--device", help="auto, cpu or cuda")
    add("--precision", choices=CHOICES, help="auto: bfloat16 where the hardware has it")
    add("--checkpoint-every", type=count, help="chunks")
    unet = parser.add_argument_group("--method unet")
    unet.add_argument("--chunks", type=count, help="of new pairs, in all")
    unet.add_argument("--weight-decay", type=float)
    unet.add_argument("--start-from", type=Path, help="weights to go on from (safetensors)")
    comi = parser.add_argument_group("--method comi")
    comi.add_argument("--steps", type=count, help="of training")
    comi.add_argument("--minutes", type=float, help="end after so long, if the steps do not end it first")
    comi.add_argument("--pair-px", type=count, help="side of the pairs that --size-px is cropped from")
    comi.add_argument("--losses", choices=("paper", "code"), help="weights of the paper or of its code")
    comi.add_argument("--cycle-every", type=count, help="steps from one cycle term to the next")
    comi.add_argument("--upsampling", choices=("transposed", "nearest"))
    comi.add_argument("--residual", action=argparse.BooleanOptionalAction, help="the generator answers a correction")
    comi.add_argument("--width", type=count)
    comi.add_argument("--blocks", type=count)
    comi.add_argument("--vgg19", type=Path, help="VGG-19 weights for the content loss, instead of our own features")
    kinds = parser.add_argument_group("--method kinds: which frames the gate refuses by their look")
    kinds.add_argument("--frames", type=count, help="drawn, of every kind, from training fields")
    kinds.add_argument("--validation", type=count, help="drawn from validation fields, for the limit")
    return parser


def _evaluate_parser() -> argparse.ArgumentParser:
    from parfocal.models.training.restore_report import FIELDS, PER_KIND, SIZE_PX

    parser = argparse.ArgumentParser(prog="parfocal evaluate restore", description=evaluate_restore.__doc__)
    add = parser.add_argument
    add("--method", choices=tuple(METHODS), action="append", help="one of the rows; may be given again (default: all)")
    add("--fields", type=Path, help="folder of real in-focus fields; without it: procedural specimens")
    add("--stacks", type=Path, help="folder of focus series with a truth.csv")
    add("--card", type=Path, help="of the U-Net, another than the packaged one")
    add("--comi", type=Path, help="card of the CycleGAN")
    add("--fields-count", type=count, default=FIELDS, help="fields, each at 6 defocus and 2 lights (%(default)s)")
    add("--bad-count", type=count, default=PER_KIND, help="frames of each kind to be refused (%(default)s)")
    add("--size-px", type=count, default=SIZE_PX, help="side of the frames (%(default)s)")
    add("--seed", type=int, default=2026)
    add(
        "--figure", type=Path, help="draw raw, restored, truth and uncertainty of a few specimens into this PNG instead"
    )
    add("--json", action="store_true")
    return parser
