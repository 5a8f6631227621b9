"""How a picture was made: complete settings, and every other ingredient that decides its pixels, inside the PNG itself.

Two texts are written: `realcustom`, JSON that `read_provenance` reads back, and `parameters`, the line that other tools
show. Neither ever holds a path of the machine.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, cast

import numpy as np
from diffusers import DiffusionPipeline
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import BeforeValidator, Field, NonNegativeInt, model_validator

from realcustom.errors import InputError
from realcustom.masks import MaskMode
from realcustom.options import Options, parse_options
from realcustom.pictures import as_seen, read_picture
from realcustom.settings import Form, FrozenAfter, MaskSource
from realcustom.subject import Likeness

KEY, SHOWN_KEY = "realcustom", "parameters"


Dtype = Literal["float32", "float16", "bfloat16"]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]

MOST_ROWS = 512
"""Pictures of one call, twins included."""


class SubjectSettings(Options):
    """What a caller decides about one of several subjects, see `realcustom.Subject`."""

    word: str
    occurrence: int | None = None
    scale: float = 1.0
    mask_mode: MaskMode = "replace"
    start: float = 0.0
    end: float = 1.0
    weights: list[float] | None = None
    box: tuple[int, int, int, int] | None = None


class PictureSettings(Options):
    """All that a caller decides about one picture; no number is left to defaults of a model. Ranges are the pipeline's."""

    prompt: str
    subject_word: str = ""
    """Of the one subject; empty where there are `subjects`."""
    seed: Seed
    num_inference_steps: int
    scheduler: str
    """Class of diffusers' sampler."""
    guidance_scale: float
    subject_guidance_scale: float
    mask_scope: float
    token_ratio: float
    subject_scale: float
    height: int
    width: int
    negative_prompt: str | None = None
    """None where the model tells the unconditional branch zeros then, as SDXL does."""
    occurrence: int | None = None
    mask_mode: MaskMode = "replace"
    mask_binary: bool = False
    mask_yields: bool = False
    guidance: Form = "cascade"
    final_mask_scope: float = 1.0
    mask_frozen_after: Annotated[FrozenAfter, BeforeValidator(lambda value: "never" if value is None else value)] = (
        "never"
    )
    """In pictures of older versions None."""
    mask_source: MaskSource = "text"
    guidance_start: float = 0.0
    guidance_end: float = 1.0
    cache_interval: int = 1
    subjects: list[SubjectSettings] = Field(default=[])
    """In the place of `subject_word`, `occurrence` and `mask_mode`."""

    @property
    def words(self) -> list[str]:
        """The words of all subjects."""
        return [one.word for one in self.subjects] or [self.subject_word]


class Sources(Options):
    """Hashes of what one of several subjects was shown by."""

    pictures: list[str]
    mask: str | None = None


class Call(Options):
    """The one call of the pipeline in which a picture was made, because rounding depends on what else is in a batch."""

    seeds: list[Seed] = Field(max_length=MOST_ROWS)
    subject_scales: list[float]
    index: NonNegativeInt
    """Which of them the picture is, from 0."""

    @model_validator(mode="after")
    def _names_the_picture(self) -> Call:
        if not self.index < len(self.seeds) == len(self.subject_scales):
            raise ValueError("there must be a seed and a subject_scale for every picture of the call")
        return self


class Provenance(Options):
    """Everything that decides a picture's pixels."""

    settings: PictureSettings
    call: Call
    subject: str | None
    """Hash of the one subject's picture, see `likeness_hash`; None where there are `subjects`."""
    mask: str | None
    """Likewise of a mask that was given."""
    subjects: list[Sources] = Field(default=[])
    """What each of several subjects was shown by, in the order of those in the settings."""
    model: str
    """Name of an embedded or hub model, or the last part of a folder's name."""
    model_kind: Literal["embedded", "folder", "hub"]
    adapter: str | None = None
    """Hub id, or last part of the folder's name, of the RealCustom part that was put on the model; None if it is its own."""
    weights: str
    """Hash of the model's weights and of its configuration, see `loading.model_hash`."""
    device: str
    dtype: Dtype
    threads: int = Field(ge=1, le=4096)
    versions: dict[str, str]

    @model_validator(mode="after")
    def _is_its_own_part_of_the_call(self) -> Provenance:
        index = self.call.index
        own = (self.settings.seed, self.settings.subject_scale)
        if own != (self.call.seeds[index], self.call.subject_scales[index]):
            raise ValueError("seed and subject_scale must be those of the picture in its call")
        if len(self.subjects) != len(self.settings.subjects) or (self.subject is None) != bool(self.subjects):
            raise ValueError("there must be hashes for every subject of the settings")
        return self

    def differences(self, other: Provenance) -> list[str]:
        """Return which ingredients of `other` are not this one's, a sentence each; settings are not compared."""
        found = []
        for name in (
            "subject",
            "mask",
            "subjects",
            "model",
            "model_kind",
            "adapter",
            "weights",
            "device",
            "dtype",
            "threads",
        ):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                found.append(f"{name}: {theirs} instead of {mine}")
        for library in sorted({*self.versions, *other.versions}):
            mine, theirs = (one.versions.get(library, "none") for one in (self, other))
            if mine != theirs:
                found.append(f"{library}: {theirs} instead of {mine}")
        return found

    def shown(self) -> str:
        """Return the line that other tools show for a picture."""
        settings = self.settings
        values = {
            "Steps": settings.num_inference_steps,
            "Sampler": settings.scheduler,
            "CFG scale": settings.guidance_scale,
            "Seed": settings.seed,
            "Size": f"{settings.width}x{settings.height}",
            "Model hash": self.weights,
            "Model": self.model,
            "Subject word": ", ".join(settings.words),
            "Subject guidance scale": settings.subject_guidance_scale,
            "Subject scale": settings.subject_scale,
            "Mask scope": settings.mask_scope,
            "Final mask scope": settings.final_mask_scope,
            "Token ratio": settings.token_ratio,
            "Version": f"realcustom {self.versions.get('realcustom', '')}",
        }
        negative = [f"Negative prompt: {settings.negative_prompt}"] if settings.negative_prompt else []
        return "\n".join([settings.prompt, *negative, ", ".join(f"{name}: {value}" for name, value in values.items())])

    def png_texts(self) -> PngInfo:
        """Return the texts that are written into the PNG."""
        texts = PngInfo()
        texts.add_itxt(SHOWN_KEY, self.shown())
        texts.add_itxt(KEY, self.model_dump_json())
        return texts


def read_provenance(path: Path) -> Provenance:
    """Return how a picture was made.

    Raises:
        InputError: the file is no picture, or does not say it.
    """
    texts = getattr(read_picture(path), "text", {})
    if KEY not in texts:
        raise InputError(
            f"{path} does not say how it was made: it holds no text {KEY!r}; it was not made by realcustom, was saved "
            f"again by another program, or was made with --no-metadata"
        )
    try:
        values = json.loads(texts[KEY])
    except (ValueError, RecursionError) as error:
        raise InputError(f"what {path} says of how it was made is no JSON: {error}") from error
    return parse_options(Provenance, values, f"what {path} says of how it was made")


def dtype_of(pipeline: DiffusionPipeline) -> Dtype:
    """Return the name of the type of a pipeline's numbers."""
    return cast(Dtype, str(pipeline.unet.dtype).removeprefix("torch."))


def likeness_hash(likeness: Likeness) -> str:
    """Return a hash of what a subject was shown by: of its picture, or of what was saved of it."""
    if isinstance(likeness, Image.Image):
        return picture_hash(likeness)
    digest = hashlib.sha256(likeness.encoder.encode())
    for features in (likeness.features.deep, likeness.features.local, *likeness.features.shallow):
        if features is not None:
            digest.update(f"{tuple(features.shape)}".encode() + features.numpy().tobytes())
    return digest.hexdigest()


def picture_hash(picture: Image.Image) -> str:
    """Return a hash of what a picture shows, which does not depend on the kind of file that it was in."""
    levels = as_seen(picture).convert("RGBA")
    digest = hashlib.sha256(f"{levels.size}".encode())
    digest.update(np.asarray(levels).tobytes())
    return digest.hexdigest()
