"""What is measured: ways of making a picture of a subject under a sentence, all asked in the same words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from realcustom.evaluation.output import Settings
from realcustom.loading import resolve
from realcustom.painting import take_scheduler, to_device
from realcustom.pipeline import RealCustomPipeline, check_layers
from realcustom.provenance import Dtype
from realcustom.saved_subject import SavedSubject
from realcustom.subject import Subject


@dataclass(frozen=True)
class Shown:
    """A subject as a request shows it."""

    name: str
    """As files can have it, alike in all requests that show the subject."""
    noun: str
    """What the subject is, whatever the prompt calls it."""
    word: str
    """What the prompt calls it."""
    picture: Image.Image
    occurrence: int = 1
    """Which one of several subjects it is where the prompt says their word more than once; a single one is the first."""


@dataclass(frozen=True)
class Request:
    """One picture that is wanted; without subjects, by text alone."""

    prompt: str
    seed: int
    subjects: tuple[Shown, ...] = ()


@dataclass(frozen=True)
class Made:
    """One picture that was made."""

    picture: Image.Image
    masks: Float[Tensor, "n h w"] | None = None
    """Where the subject acted in each step, if the method has masks and the request one subject."""


@runtime_checkable
class Method(Protocol):
    """A way of making pictures of subjects."""

    pipeline: RealCustomPipeline
    """The base on which it stands; by itself it makes the pictures without a subject."""

    def describe(self) -> dict[str, Any]:
        """Return what tells it from other methods on the same base, as JSON can hold it."""
        ...

    def make(self, requests: Sequence[Request], settings: Settings) -> list[Made]:
        """Return the pictures of some requests, which all have equally many subjects, one at least."""
        ...


UNBOUNDED = {"mask_scope": 1.0, "final_mask_scope": 1.0, "mask_binary": True, "mask_yields": False}
"""Settings with which a subject acts in all of the picture.

The word's attention bounds nothing then, and still says where placed tokens lie. A given mask of the whole picture would lay
them out over all of it, which no training has shown the adapter.
"""

IMAGE_PROMPT = {**UNBOUNDED, "token_ratio": 1.0}
"""The same with all of the subject's features: an image prompt."""


class Customized:
    """A RealCustom model, shown the references.

    Args:
        pipeline: the model.
        name: what it is called with the settings with which it is used.
    """

    def __init__(self, pipeline: RealCustomPipeline, name: str = "realcustom") -> None:
        self.pipeline, self.name = pipeline, name
        self._seen: dict[str, SavedSubject] = {}

    def describe(self) -> dict[str, Any]:
        """Return its name."""
        return {"method": self.name}

    def make(self, requests: Sequence[Request], settings: Settings) -> list[Made]:
        """Return pictures, with masks where there is one subject; such requests are made at once."""
        more = settings.arguments() | settings.subject_arguments()
        if len(requests[0].subjects) > 1:
            return [Made(self._of_several(request, more)) for request in requests]
        shown = [request.subjects[0] for request in requests]
        made = self.pipeline(
            [request.prompt for request in requests], self._as_seen(shown), [one.word for one in shown],
            generator=generators(requests), occurrence=1, **more,
        )  # fmt: skip
        if made.masks is None:
            return [Made(picture) for picture in made.images]
        return [Made(picture, made.masks.steps[:, place]) for place, picture in enumerate(made.images)]

    def _of_several(self, request: Request, more: dict[str, Any]) -> Image.Image:
        seen = self._as_seen(request.subjects)
        subjects = [
            Subject(likeness, one.word, occurrence=one.occurrence)
            for likeness, one in zip(seen, request.subjects, strict=True)
        ]
        return self.pipeline(request.prompt, subjects=subjects, generator=generators([request])[0], **more).images[0]

    def _as_seen(self, shown: Sequence[Shown]) -> list[SavedSubject]:
        """Return what the encoder sees of subjects; lists go from one to the next, so it looks at each once."""
        seen: dict[str, SavedSubject] = {}
        for one in shown:
            if one.name not in seen:
                known = self._seen.get(one.name)
                seen[one.name] = known or self.pipeline.subject_encoder.remember(
                    one.picture, self.pipeline.adapter, one.word
                )
        self._seen = seen
        return [seen[one.name] for one in shown]


@dataclass(frozen=True)
class Opening:
    """How a RealCustom model is opened to be measured, on this or another machine."""

    model: str
    """A folder, the name of an embedded model, or an id of the hub."""
    adapter: str | None = None
    """Another RealCustom part than the model's own."""
    device: str | None = None
    """The best that there is if None."""
    dtype: Dtype = "float32"
    """Of the model's numbers."""
    scheduler: str | None = None
    mask_layers: tuple[str, ...] = ()
    """Other layers than the model's own, whose attention makes the mask."""
    name: str = "realcustom"
    """See `Customized`."""

    def pipeline(self) -> RealCustomPipeline:
        """Return the model itself.

        Raises:
            InputError: it, its part, its scheduler or its layers are not there.
        """
        part = {} if self.adapter is None else {"adapter": self.adapter}
        pipeline = to_device(
            RealCustomPipeline.from_pretrained(resolve(self.model), dtype=self.dtype, **part), self.device
        )
        take_scheduler(pipeline, self.scheduler)
        pipeline.set_progress_bar_config(disable=True)
        if self.mask_layers:
            check_layers(pipeline.unet, self.mask_layers)
            pipeline.register_to_config(mask_layers=list(self.mask_layers))
        return pipeline

    def method(self) -> Method:
        """Return the model as a method."""
        return Customized(self.pipeline(), self.name)


Maker = Callable[[Sequence[Request]], Iterator[tuple[int, Made]]]
"""Makes the pictures of requests, which all have equally many subjects, and yields each one's place among them and picture."""


def make(method: Method, requests: Sequence[Request], settings: Settings) -> list[Made]:
    """Return the pictures of some requests, made at once; those without a subject by the method's base."""
    if requests[0].subjects:
        return method.make(requests, settings)
    prompts = [request.prompt for request in requests]
    made = method.pipeline(prompts, generator=generators(requests), **settings.arguments())
    return [Made(picture) for picture in made.images]


def in_batches(method: Method, settings: Settings) -> Maker:
    """Return what makes pictures here, `settings.batch_size` at once."""

    def made(requests: Sequence[Request]) -> Iterator[tuple[int, Made]]:
        for start in range(0, len(requests), settings.batch_size):
            yield from enumerate(make(method, requests[start : start + settings.batch_size], settings), start)

    return made


def generators(requests: Sequence[Request]) -> list[torch.Generator]:
    """Return a generator for each request, by its seed."""
    return [torch.Generator().manual_seed(request.seed) for request in requests]
