"""`realcustom generate`: one picture and one sentence in, pictures out."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import diffusers
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from realcustom.apps.console import quiet_libraries
from realcustom.errors import InputError, did_you_mean
from realcustom.pictures import mask_over, mask_strip, read_picture, write_picture
from realcustom.pipeline import RealCustomPipeline

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "dpm++-single": "DPMSolverSinglestepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""Short names of diffusers' schedulers; their class names are understood, too."""

MASK_STEPS, MASK_OVER = "mask-steps", "mask"
"""What is added to a picture's name for the pictures of its mask."""


def generate(options: argparse.Namespace) -> None:
    """Do what the command line says.

    Raises:
        InputError: the picture, the prompt, an option or an output file cannot be used; nothing has been written.
    """
    quiet_libraries()
    subject = read_picture(options.subject)
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**31)
    if options.num_images < 1:
        raise InputError(f"--num-images must be at least 1, but is {options.num_images}")
    seeds = [seed + number for number in range(options.num_images)]
    if not -(2**63) <= seeds[0] <= seeds[-1] < 2**64:
        raise InputError(f"--seed must be from -2^63 to 2^64 - 1 for every picture, but is {seed}")
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
    seconds = round(time.monotonic() - started, 3)
    assert result.masks is not None
    assert result.report is not None
    for number, (path, picture) in enumerate(zip(outputs, result.images, strict=True)):
        write_picture(picture, path)
        if options.save_masks:
            write_picture(mask_strip(result.masks.steps[:, number], picture.height), _beside(path, MASK_STEPS))
            write_picture(mask_over(picture, result.masks.final[number]), _beside(path, MASK_OVER))
    if options.json:
        pictures = [{"image": str(path), "seed": value} for path, value in zip(outputs, seeds, strict=True)]
        about = {"pictures": pictures, "model": options.model, "seconds": seconds, "report": result.report.to_dict()}
        print(json.dumps(about, allow_nan=False))
    else:
        print(*(f"{path} (seed {value})" for path, value in zip(outputs, seeds, strict=True)), sep="\n")


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


def to_device(pipeline: RealCustomPipeline, device: str | None) -> RealCustomPipeline:
    """Return the pipeline on a device, on the best that there is if none is named.

    Raises:
        InputError: the device cannot be used.
    """
    try:
        return pipeline.to(device or best_device())
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"the device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def _load(options: argparse.Namespace) -> RealCustomPipeline:
    kind = scheduler_class(options.scheduler) if options.scheduler else None
    pipeline = RealCustomPipeline.from_pretrained(options.model, torch_dtype=getattr(torch, options.dtype))
    if kind is not None:
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=not sys.stderr.isatty(), file=sys.stderr)
    return to_device(pipeline, options.device)


def _output_paths(options: argparse.Namespace, seeds: Sequence[int]) -> list[Path]:
    """Return one path for each picture, all of which can be written."""
    slug = re.sub(r"[^a-z0-9]+", "-", options.prompt.lower()).strip("-")[:60] or "picture"
    base = options.output or Path(f"{slug}-{seeds[0]}.png")
    if base.suffix.lower() != ".png":
        raise InputError(f"--output must end in .png, but is {base}")
    if not base.parent.is_dir():
        raise InputError(f"the folder {base.parent} for the output does not exist; make it first")
    paths = [base] if len(seeds) == 1 else [base.with_stem(f"{base.stem}-{n + 1}") for n in range(len(seeds))]
    extra = (MASK_STEPS, MASK_OVER) if options.save_masks else ()
    wanted = [path for one in paths for path in (one, *(_beside(one, kind) for kind in extra))]
    folders = [path for path in wanted if path.is_dir()]
    if folders:
        raise InputError(f"{folders[0]} is a folder; choose another --output")
    taken = [path for path in wanted if os.path.lexists(path)]
    if taken and not options.overwrite:
        raise InputError(f"{taken[0]} exists; choose another --output, or --overwrite it")
    if not os.access(base.parent, os.W_OK):
        raise InputError(f"the folder {base.parent} cannot be written to")
    return paths


def _beside(path: Path, kind: str) -> Path:
    return path.with_stem(f"{path.stem}-{kind}")
