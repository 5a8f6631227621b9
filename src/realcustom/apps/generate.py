"""`realcustom generate`: one picture and one sentence in, pictures out."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import diffusers
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from PIL import Image, UnidentifiedImageError

from realcustom.errors import InputError, did_you_mean
from realcustom.pictures import mask_over, mask_strip
from realcustom.pipeline import RealCustomPipeline

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "dpm++-single": "DPMSolverSinglestepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""Short names of diffusers' schedulers; their class names are understood, too."""


def generate(options: argparse.Namespace) -> None:
    """Do what the command line says.

    Raises:
        InputError: the picture, the prompt, an option or an output file cannot be used; nothing has been written.
    """
    subject = read_picture(options.subject)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**31)
    if options.num_images < 1:
        raise InputError(f"--num-images must be at least 1, but is {options.num_images}")
    seeds = [seed + number for number in range(options.num_images)]
    outputs = _output_paths(options, seeds)
    pipeline = _load(options)
    started = time.monotonic()
    result = pipeline(
        options.prompt,
        subject,
        options.word,
        height=options.height,
        width=options.width,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance_scale,
        subject_guidance_scale=options.subject_guidance_scale,
        negative_prompt=options.negative_prompt,
        num_images_per_prompt=options.num_images,
        generator=[torch.Generator().manual_seed(value) for value in seeds],
        occurrence=options.occurrence,
        mask_scope=options.mask_scope,
        token_ratio=options.token_ratio,
        subject_scale=options.subject_scale,
    )
    seconds = time.monotonic() - started
    written = []
    for number, (path, picture) in enumerate(zip(outputs, result.images, strict=True)):
        pictures = [(path, picture)]
        if options.save_masks:
            pictures += [
                (_beside(path, "mask-steps"), mask_strip(result.masks.steps[:, number], picture.height)),
                (_beside(path, "mask"), mask_over(picture, result.masks.final[number])),
            ]
        for target, content in pictures:
            write_picture(content, target)
        written.append({"image": str(path), "seed": seeds[number], "also": [str(target) for target, _ in pictures[1:]]})
    if options.json:
        about = {
            "pictures": written,
            "model": options.model,
            "seconds": round(seconds, 3),
            "report": result.report.to_dict(),
        }
        print(json.dumps(about))
    else:
        for item in written:
            print(f"{item['image']} (seed {item['seed']})", *(f"  {path}" for path in item["also"]), sep="\n")


def read_picture(path: Path) -> Image.Image:
    """Return a picture file, decoded.

    Raises:
        InputError: there is no such file, or it is no whole picture.
    """
    try:
        picture = Image.open(path)
        picture.load()
    except FileNotFoundError:
        raise InputError(f"there is no picture {path}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as a picture: {error}") from error
    return picture


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG that appears under its name only when it is whole.

    Raises:
        InputError: the file cannot be written.
    """
    draft = None
    try:
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".png")
        with os.fdopen(handle, "wb") as stream:
            picture.save(stream, "PNG")
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(draft, 0o666 & ~umask)
        os.replace(draft, path)
    except BaseException as error:
        if draft is not None:
            Path(draft).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
        raise


def scheduler_class(name: str) -> type[SchedulerMixin]:
    """Return a diffusers scheduler by its short or class name.

    Raises:
        InputError: there is none of that name.
    """
    found = getattr(diffusers, SCHEDULERS.get(name.lower(), name), None)
    if not (isinstance(found, type) and issubclass(found, SchedulerMixin)):
        hint = did_you_mean(name.lower(), list(SCHEDULERS)) or f" Known: {', '.join(SCHEDULERS)}."
        raise InputError(f"there is no scheduler {name!r}.{hint}")
    return found


def best_device() -> str:
    """Return the fastest device that torch can use here."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _load(options: argparse.Namespace) -> RealCustomPipeline:
    kind = scheduler_class(options.scheduler) if options.scheduler else None
    pipeline = RealCustomPipeline.from_pretrained(options.model, torch_dtype=getattr(torch, options.dtype))
    if kind is not None:
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=not sys.stderr.isatty(), file=sys.stderr)
    try:
        return pipeline.to(options.device or best_device())
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"the device {options.device!r} cannot be used: {str(error).splitlines()[0]}") from error


def _output_paths(options: argparse.Namespace, seeds: Sequence[int]) -> list[Path]:
    """Return one path for each picture, all of which can be written."""
    slug = re.sub(r"[^a-z0-9]+", "-", options.prompt.lower()).strip("-")[:60] or "picture"
    base = options.output or Path(f"{slug}-{seeds[0]}.png")
    if base.suffix.lower() != ".png":
        raise InputError(f"--output must end in .png, but is {base}")
    if not base.parent.is_dir():
        raise InputError(f"the folder {base.parent} for the output does not exist; make it first")
    paths = [base] if len(seeds) == 1 else [base.with_stem(f"{base.stem}-{n + 1}") for n in range(len(seeds))]
    extra = ("mask-steps", "mask") if options.save_masks else ()
    taken = [path for one in paths for path in (one, *(_beside(one, kind) for kind in extra)) if path.exists()]
    if taken and not options.overwrite:
        raise InputError(f"{taken[0]} exists; choose another --output, or --overwrite it")
    if not os.access(base.parent, os.W_OK):
        raise InputError(f"the folder {base.parent} cannot be written to")
    return paths


def _beside(path: Path, kind: str) -> Path:
    return path.with_stem(f"{path.stem}-{kind}")
