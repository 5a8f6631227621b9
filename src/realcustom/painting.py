"""From complete settings to pictures that know how they were made: what the command and every other program run."""

from __future__ import annotations

import copy
import importlib.util
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
import transformers
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from PIL import Image
from torch import nn

from realcustom import __version__
from realcustom.checks import check_numbers
from realcustom.errors import InputError, did_you_mean
from realcustom.finding import Place, locate
from realcustom.loading import model_hash, part_folder, resolve
from realcustom.options import parse_options
from realcustom.pipeline import RealCustomPipeline
from realcustom.prompts import find_word
from realcustom.provenance import (
    Call,
    Dtype,
    PictureSettings,
    Provenance,
    Sources,
    dtype_of,
    likeness_hash,
    picture_hash,
)
from realcustom.report import Report, SubjectMasks
from realcustom.settings import RunSettings
from realcustom.subject import Likeness, Subject

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

_PER_PICTURE = ("seed", "subject_scale")
"""Settings in which the pictures of one call may differ."""

_OF_SUBJECTS = ("subject_word", "occurrence", "mask_mode", "subjects")


@dataclass(frozen=True)
class Source:
    """What one subject is shown by."""

    pictures: Sequence[Likeness]
    mask: Image.Image | None = None


@dataclass(frozen=True)
class Painting:
    """The pictures of one call, and what is to be said about them."""

    pictures: Sequence[Image.Image]
    provenances: Sequence[Provenance]
    masks: SubjectMasks
    report: Report
    seconds: float


class Painter:
    """A loaded model that makes pictures from complete settings.

    Args:
        pipeline: the model on its device.
        place: where it comes from.
        adapter: folder or hub id of the RealCustom part that was put on it; None if it is the model's own.
    """

    def __init__(self, pipeline: RealCustomPipeline, place: Place, adapter: str | None = None) -> None:
        self.pipeline, self.kind = pipeline, place.kind
        self.adapter = Path(adapter).resolve().name if adapter and os.path.isdir(adapter) else adapter
        self.name = place.folder.resolve().name if place.kind == "folder" else place.name  # a picture tells no path
        self.weights = model_hash(pipeline)
        self._own_scheduler = pipeline.scheduler
        self._evaluations: dict[tuple[str, int], int] = {}

    @property
    def dtype(self) -> Dtype:
        """Of the model's numbers."""
        return dtype_of(self.pipeline)

    @classmethod
    def load(
        cls,
        model: str,
        adapter: str | None = None,
        *,
        device: str | None = None,
        dtype: str = "float32",
        progress: bool = False,
        local_model: bool = False,
        local_adapter: bool = False,
    ) -> Painter:
        """Return a painter of a model on a device, the best that there is if none is named.

        Args:
            model: embedded model, folder or hub id.
            adapter: folder or hub id of a RealCustom part for a model that has none.
            device: of torch.
            dtype: name of torch's type.
            progress: show a bar on standard error.
            local_model: never ask the hub for the model, as whoever runs this has not named it.
            local_adapter: likewise for the adapter.

        Raises:
            InputError: there is no such model, or the device cannot be used.
        """
        place = locate(model)
        folder = resolve(model, local_files_only=local_model)
        part: dict[str, Any] = (
            {} if adapter is None else {"adapter": part_folder(adapter, local_files_only=local_adapter)}
        )
        pipeline = RealCustomPipeline.from_pretrained(folder, dtype=dtype, **part)
        pipeline.set_progress_bar_config(disable=not progress)
        return cls(to_device(pipeline, device), place, adapter)

    def settings(self, prompt: str, subject_word: str = "", **given: Any) -> PictureSettings:
        """Return complete settings that can be used: those not given, or None, are the model's own, the seed is drawn.

        Of several subjects `subjects` tells, in the place of `subject_word`.

        Raises:
            InputError: there is no such scheduler, a value cannot be used, or the prompt does not say the word.
        """
        side = self.pipeline.side
        own: dict[str, Any] = {"seed": random_seed(), "subject_scale": 1.0, "height": side, "width": side}
        own |= {name: value for name, value in self.pipeline.defaults.items() if name in PictureSettings.model_fields}
        if not self.pipeline.zeros_for_empty_prompt:
            own["negative_prompt"] = ""
        chosen = {**own, **{name: value for name, value in given.items() if value is not None}}
        name = chosen.pop("scheduler", type(self._own_scheduler).__name__)
        said = {"prompt": prompt, "subject_word": subject_word, "scheduler": scheduler_class(name).__name__}
        settings = parse_options(PictureSettings, {**said, **chosen}, "the settings")
        self.check(settings)
        return settings

    def check(self, settings: PictureSettings) -> None:
        """Check settings before any picture is made with them.

        Raises:
            InputError: they cannot be used, or the prompt does not say the word.
        """
        self._settled(settings)
        check_numbers({"subject_scale": settings.subject_scale})
        sampler = (settings.scheduler, settings.num_inference_steps)
        if sampler not in self._evaluations:
            self._evaluations[sampler] = rehearse(self.pipeline, settings.num_inference_steps)
        said = [(one.word, one.occurrence) for one in settings.subjects] or [
            (settings.subject_word, settings.occurrence)
        ]
        for word, occurrence in said:
            find_word(settings.prompt, word, self.pipeline.tokenizer, occurrence=occurrence)

    def unread(self, settings: PictureSettings, masked: Sequence[bool]) -> dict[str, str]:
        """Return the settings that a call with these does not read, each with the reason.

        Args:
            settings: complete ones, checked.
            masked: of each subject whether a mask is given for it.
        """
        modes = [one.mask_mode for one in settings.subjects] or [settings.mask_mode]
        replaced = all(given and mode == "replace" for given, mode in zip(masked, modes, strict=True))
        instead = "the mask that is given, with mask-mode replace," if replaced else ""
        evaluations = self._evaluations[settings.scheduler, settings.num_inference_steps]
        return unread_settings(self.pipeline, self._settled(settings), evaluations, instead)

    def _settled(self, settings: PictureSettings) -> RunSettings:
        """Return how a call with these is run, by their scheduler, which the pipeline has from here on."""
        take_scheduler(self.pipeline, settings.scheduler, self._own_scheduler)
        apart = {"prompt", "negative_prompt", "scheduler", *_OF_SUBJECTS, *_PER_PICTURE}
        return self.pipeline.settled(**settings.model_dump(exclude=apart))

    def paint(self, sources: Sequence[Source], settings: Sequence[PictureSettings]) -> Painting:
        """Make the pictures of one call; their settings may differ in seed and subject_scale.

        Args:
            sources: what each subject is shown by.
            settings: of each picture.

        Raises:
            InputError: a setting cannot be used.
            ValueError: other settings differ.
        """
        shared = settings[0]
        if len({one.model_dump_json(exclude=set(_PER_PICTURE)) for one in settings}) != 1:
            raise ValueError(f"the pictures of one call can only differ in {' and '.join(_PER_PICTURE)}")
        seeds, scales = [one.seed for one in settings], [one.subject_scale for one in settings]
        take_scheduler(self.pipeline, shared.scheduler, self._own_scheduler)
        started = time.monotonic()
        result = self.pipeline(
            shared.prompt,
            **subjects_of(sources, shared),
            num_images_per_prompt=len(settings),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            subject_scale=scales,
            **shared.model_dump(exclude={"prompt", "scheduler", *_OF_SUBJECTS, *_PER_PICTURE}),
        )
        seconds = time.monotonic() - started
        assert result.masks is not None
        assert result.report is not None
        provenances = [
            Provenance(
                settings=one,
                call=Call(seeds=seeds, subject_scales=scales, index=index),
                **_hashes(sources, several=bool(one.subjects)),
                model=self.name,
                model_kind=self.kind,
                adapter=self.adapter,
                weights=self.weights,
                device=_device_name(self.pipeline.device),
                dtype=self.dtype,
                threads=torch.get_num_threads(),
                versions=_versions(),
            )
            for index, one in enumerate(settings)
        ]
        return Painting(result.images, provenances, result.masks, result.report, seconds)


def unread_settings(
    pipeline: RealCustomPipeline, run: RunSettings, evaluations: int, instead: str = ""
) -> dict[str, str]:
    """Return what a call does not read of its settings, by their names, each with the reason.

    Args:
        pipeline: that is called.
        run: how it is.
        evaluations: how often the run evaluates the UNet, see `rehearse`.
        instead: what takes the place of every word's own mask, in words; nothing does if it is empty.
    """
    guidance, shortcuts, direct = run.guidance, run.shortcuts, run.guidance.form == "direct"
    unread: dict[str, str] = {}
    if not run.masks.narrows(evaluations):
        unread["final_mask_scope"] = "no mask is found in the second half of the run"
    # What freezes none takes back the model's own freezing, if it has one within the run.
    if not {run.masks.mask_frozen_after, pipeline.defaults["mask_frozen_after"]} & {*range(1, evaluations)}:
        unread["mask_frozen_after"] = f"the run has {evaluations} evaluations, and freezes no mask"
    if instead:
        # With the cascade, the source of the mask also says which branches are one batch.
        of_masks = (
            "mask_scope", "final_mask_scope", "mask_binary", "mask_yields", "mask_frozen_after", "mask_refined", "mask_layers",
        )  # fmt: skip
        names = (*of_masks, "mask_source") if direct else of_masks
        unread |= dict.fromkeys(names, f"{instead} takes the place of the word's")
    if direct:
        unread["subject_guidance_scale"] = "guidance is direct"
    if pipeline.adapter is not None and pipeline.adapter.scoring is None:
        unread["token_ratio"] = "the adapter scores no tokens"
    if guidance.scale == 1:
        unread["negative_prompt"] = "guidance_scale is 1"
    elif shortcuts.guidance_start == shortcuts.guidance_end:
        of_negative = ("negative_prompt", "guidance_scale")
        unread |= dict.fromkeys(of_negative, "no step lies between guidance start and end")
    return unread


def subjects_of(sources: Sequence[Source], settings: PictureSettings) -> dict[str, Any]:
    """Return the arguments of the pipeline that say whose picture is made.

    Raises:
        InputError: what is said of a subject cannot be used.
        ValueError: there are not as many sources as subjects.
    """
    if not settings.subjects:
        ((source,), (picture,)) = sources, sources[0].pictures
        return {
            "subject_image": picture, "subject_word": settings.subject_word, "occurrence": settings.occurrence,
            "mask": source.mask, "mask_mode": settings.mask_mode,
        }  # fmt: skip
    subjects = [
        Subject(
            list(source.pictures),
            one.word,
            one.occurrence,
            one.scale,
            source.mask,
            one.mask_mode,
            one.start,
            one.end,
            one.weights,
            one.box,
        )
        for one, source in zip(settings.subjects, sources, strict=True)
    ]
    return {"subjects": subjects}


def _hashes(sources: Sequence[Source], *, several: bool) -> dict[str, Any]:
    """Return what a picture says of its sources."""
    told = [
        Sources(
            pictures=[likeness_hash(one) for one in source.pictures],
            mask=None if source.mask is None else picture_hash(source.mask),
        )
        for source in sources
    ]
    if several:
        return {"subject": None, "mask": None, "subjects": told}
    return {"subject": told[0].pictures[0], "mask": told[0].mask}


def random_seed() -> int:
    """Return a seed that nothing decides, short enough to be typed."""
    return random.SystemRandom().randrange(2**31)


def scheduler_class(name: str) -> type[SchedulerMixin]:
    """Return a diffusers scheduler by its short or class name.

    Raises:
        InputError: there is none of that name, or it needs a package that is not installed.
    """
    if not isinstance(name, str):
        raise InputError(f"scheduler must be a name, but is {name!r}")
    found = getattr(diffusers, SCHEDULERS.get(name.lower(), name), None)
    if name.endswith("Scheduler") and (absent := _absent_packages(found)):
        raise InputError(
            f"the scheduler {name} needs a package that is not installed; install it with: pip install {' '.join(absent)}"
        )
    if not (isinstance(found, type) and issubclass(found, SchedulerMixin) and hasattr(found, "from_config")):
        hint = did_you_mean(name.lower(), list(SCHEDULERS)) or f" Known: {', '.join(SCHEDULERS)}."
        raise InputError(f"there is no scheduler {name!r}.{hint}")
    return found


def _absent_packages(found: object) -> list[str]:
    """Return which packages must be installed to turn what stands in diffusers for a class into the class itself."""
    return [name for name in getattr(found, "_backends", ()) if importlib.util.find_spec(name) is None]


def take_scheduler(pipeline: RealCustomPipeline, name: str | None, own: SchedulerMixin | None = None) -> None:
    """Let a pipeline sample by another scheduler on its noise schedule; by its own if that is the one, or none is named.

    Raises:
        InputError: there is no such scheduler, or it cannot be built from that schedule.
    """
    own = own or pipeline.scheduler
    kind = type(own) if name is None else scheduler_class(name)
    try:
        pipeline.scheduler = own if kind is type(own) else kind.from_config(own.config)
    except Exception as error:  # other kinds of models have schedulers of other arguments
        raise InputError(
            f"the scheduler {kind.__name__} cannot be built from this model's noise schedule ({error}); take another one"
        ) from error


def rehearse(pipeline: RealCustomPipeline, num_inference_steps: int) -> int:
    """Let a pipeline's scheduler take all its steps with nothing to sample, so that what it cannot do is known before.

    Returns:
        How often it evaluates the UNet; some schedulers do twice in a step.

    Raises:
        InputError: it cannot take that many, or has no numbers for them.
    """
    scheduler = copy.deepcopy(pipeline.scheduler)
    name = type(scheduler).__name__
    try:
        finite = _sample_nothing(scheduler, num_inference_steps, pipeline.prepare_extra_step_kwargs)
    except Exception as error:  # those of other kinds of models fail each in its own way, PNDM with too few steps
        raise InputError(
            f"{name} cannot take num_inference_steps {num_inference_steps} on this model ({type(error).__name__}: {error}); "
            f"take another number or another scheduler"
        ) from error
    if not finite:
        raise InputError(
            f"{name} has no finite timesteps for num_inference_steps {num_inference_steps} on this model; take another "
            f"number or another scheduler"
        )
    return len(scheduler.timesteps)


def _sample_nothing(scheduler: Any, steps: int, step_options: Callable[..., dict[str, Any]]) -> bool:
    """Return whether all of a scheduler's timesteps, and what it makes of no prediction, are finite."""
    scheduler.set_timesteps(steps, device="cpu")
    latents = torch.ones(1, 4, 2, 2) * scheduler.init_noise_sigma
    options = step_options([torch.Generator()], 0.0)
    for timestep in scheduler.timesteps:
        scheduler.scale_model_input(latents, timestep)
        latents = scheduler.step(torch.zeros_like(latents), timestep, latents, **options, return_dict=False)[0]
    numbers = torch.cat([latents.flatten().double(), torch.as_tensor(scheduler.timesteps).double()])
    return bool(torch.isfinite(numbers).all())


def best_device() -> str:
    """Return the fastest device that torch can use here."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


Movable = TypeVar("Movable", RealCustomPipeline, nn.Module)


def to_device(model: Movable, device: str | None) -> Movable:
    """Return a pipeline or network on a device, on the best that there is if none is named.

    Raises:
        InputError: the device cannot be used.
    """
    try:
        if device is not None and torch.device(device).type == "meta":
            raise RuntimeError("it holds no numbers")
        return model.to(device or best_device())
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"the device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.backends.cpu.get_cpu_capability()})" if device.type == "cpu" else device.type


def _versions() -> dict[str, str]:
    return {
        "realcustom": __version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
    }
