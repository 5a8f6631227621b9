"""`realcustom generate`: one picture and one sentence in, pictures out."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from realcustom.apps.console import quiet_libraries
from realcustom.apps.outputs import beside, keep, save, slug
from realcustom.apps.picture_options import OPTIONS, picture_options, refuse_unused, told_by_option
from realcustom.errors import InputError
from realcustom.painting import Painter, Painting, random_seed
from realcustom.pictures import mask_over, mask_picture, mask_strip, read_picture, require_free, sheet

TWIN, SIDE_BY_SIDE = "twin", "side-by-side"
MASK, MASK_OVER, MASK_STRIP, MASK_STEP = "mask", "mask-over", "mask-strip", "mask-step"
"""What is added to a picture's name for those that belong to it."""

MOST_IMAGES = 256

_TWIN_COST = (
    "each twin is two more rows of the UNet in every step, beside the three of its picture: about 1.7 times the time"
)


def generate(options: argparse.Namespace) -> None:
    """Do what the command line says.

    Raises:
        InputError: the picture, the prompt, an option or an output file cannot be used; nothing has been written.
    """
    quiet_libraries()
    if options.mask_mode is not None and options.mask is None:
        raise InputError("--mask-mode was given without --mask, the mask that it is about")
    given = picture_options(options)
    if options.mask is not None:
        refuse_unused([option for option, name in OPTIONS.items() if given.get(name) is not None], options.mask_mode)
    subject = read_picture(options.subject)
    mask = None if options.mask is None else read_picture(options.mask)
    seeds = picture_seeds(options.seed, options.num_images)
    outputs = _outputs(options, seeds)
    painter = Painter.load(
        options.model, options.adapter, device=options.device, dtype=options.dtype, progress=sys.stderr.isatty()
    )
    with told_by_option():
        settings = painter.settings(options.prompt, options.word, **given, mask_mode=options.mask_mode)
    scales = [settings.subject_scale, 0.0] if options.twin else [settings.subject_scale]
    wanted = [settings.model_copy(update={"seed": seed, "subject_scale": scale}) for scale in scales for seed in seeds]
    painting = painter.paint(subject, wanted, mask)
    pictures = [{"image": str(path), "seed": seed} for path, seed in zip(outputs, seeds, strict=True)]
    for number, path in enumerate(outputs):
        pictures[number] |= _write(painting, number, path, options)
    if options.json:
        print(json.dumps(_about(options, painting, pictures), allow_nan=False))
        return
    print(*(f"{path} (seed {seed})" for path, seed in zip(outputs, seeds, strict=True)), sep="\n")
    for line in [*painting.report.lines(), *([_TWIN_COST] if options.twin else [])]:
        print(f"  {line}", file=sys.stderr)


def picture_seeds(first: int | None, count: int) -> list[int]:
    """Return one seed for each picture, counting up; from a random one if none is given.

    Raises:
        InputError: there is no picture, or a seed is no 64-bit number.
    """
    first = random_seed() if first is None else first
    if count < 1:
        raise InputError(f"--num-images must be at least 1, but is {count}")
    if count > MOST_IMAGES:
        raise InputError(f"--num-images must be at most {MOST_IMAGES}, as they are made at once, but is {count}")
    if not -(2**63) <= first <= first + count - 1 < 2**64:
        raise InputError(f"--seed must be from -2^63 to 2^64 - 1 for every picture, but is {first}")
    return [first + number for number in range(count)]


def _outputs(options: argparse.Namespace, seeds: Sequence[int]) -> list[Path]:
    """Return one path for each picture; it and everything that belongs to it can be written."""
    base = options.output or Path(f"{slug(options.prompt)}-{seeds[0]}.png")
    paths = [base] if len(seeds) == 1 else [base.with_stem(f"{base.stem}-{n + 1}") for n in range(len(seeds))]
    kinds = [""]
    kinds += [TWIN, SIDE_BY_SIDE] if options.twin else []
    kinds += [MASK, MASK_OVER, MASK_STRIP] if options.save_masks else []
    for path in paths:
        for kind in kinds:
            require_free(beside(path, kind), overwrite=options.overwrite)
        older = _step_masks(path) if options.save_masks else []
        if older and not options.overwrite:
            raise InputError(f"{older[0]} exists; choose another name, or --overwrite it")
        sources = {"the subject's picture": options.subject, "the mask": options.mask}
        keep(sources, [*(beside(path, kind) for kind in kinds), *older])
    return paths


def _write(painting: Painting, number: int, path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Write a picture and what belongs to it; return the names of the latter's files by kind."""
    for older in _step_masks(path) if options.save_masks else []:
        older.unlink()  # of a run with more steps
    steps: list[str] = []
    written: dict[str, Any] = {}
    for kind, picture in _pictures(painting, number, options):
        provenance = painting.provenances[number + options.num_images * (kind == TWIN)]
        save(picture, beside(path, kind), provenance if kind in ("", TWIN) and options.metadata else None)
        if kind.startswith(MASK_STEP):
            steps.append(str(beside(path, kind)))
        elif kind:
            written[kind.replace("-", "_")] = str(beside(path, kind))
    return {**written, "mask_steps": steps} if steps else written


def _step_masks(path: Path) -> list[Path]:
    """Return the masks of single steps that lie beside a picture's name."""
    names = re.compile(re.escape(f"{path.stem}-{MASK_STEP}-") + r"\d+" + re.escape(path.suffix))
    return sorted(other for other in path.parent.iterdir() if names.fullmatch(other.name))


def _pictures(painting: Painting, number: int, options: argparse.Namespace) -> Iterator[tuple[str, Image.Image]]:
    """Yield what belongs to one picture, each with what is added to its name."""
    picture = painting.pictures[number]
    yield "", picture
    if options.twin:
        twin = painting.pictures[number + options.num_images]
        yield TWIN, twin
        yield SIDE_BY_SIDE, sheet([twin, picture], columns=2)
    if options.save_masks:
        steps = painting.masks.steps[:, number]
        yield MASK, mask_picture(steps[-1], picture.size)
        yield MASK_OVER, mask_over(picture, steps[-1])
        yield MASK_STRIP, mask_strip(steps, picture.height)
        for step, mask in enumerate(steps, start=1):
            yield f"{MASK_STEP}-{step:02d}", mask_picture(mask, picture.size)


def _about(options: argparse.Namespace, painting: Painting, pictures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    provenance = painting.provenances[0]
    return {
        "pictures": list(pictures),
        "model": options.model,
        "settings": provenance.settings.model_dump(exclude={"seed"}),
        "made_by": provenance.model_dump(include={"weights", "device", "dtype", "threads", "versions"}),
        "seconds": round(painting.seconds, 3),
        "report": painting.report.to_dict(),
    }
