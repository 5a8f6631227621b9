"""The rivals that learn each subject anew: Textual Inversion, DreamBooth, Custom Diffusion.

All of them make a base denoise the subject's picture under a phrase that names it. What they train differs: a new token's
embedding (Gal et al., 2023), the UNet (Ruiz et al., 2023), or a token and the keys and values of the text (Kumari et al.,
2023); the latter two hold on to the class by the base's own pictures of it. RealCustom needs none of this.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DDPMScheduler
from PIL import Image, ImageOps
from pydantic import NonNegativeFloat, NonNegativeInt, model_validator
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from realcustom.attention import cross_attention_layers
from realcustom.data.examples import Batch, Example
from realcustom.data.stickers.captions import with_article
from realcustom.errors import InputError
from realcustom.evaluation.methods import Made, Request, Shown, generators
from realcustom.evaluation.output import Settings
from realcustom.options import Options
from realcustom.pictures import as_seen, read_picture, sheet, write_picture
from realcustom.pipeline import RealCustomPipeline
from realcustom.prompts import TextStates, encode_prompts, find_word
from realcustom.training import loop, recipes
from realcustom.training.diffusion import NoisyBatch, draw_noisy, encode, predict_noisy, sample_errors
from realcustom.training.options import Fixed, TrainingOptions

TOKEN = "<subject>"
"""The token that is learned."""

_WORD = "{word}"
"""What a recipe says where the subject's noun belongs."""

TEMPLATES = ("{}", "a picture of {}", "a photo of {}", "a drawing of {}")
"""What the subject's picture is called while it is learned."""


class TuningRecipe(Options):
    """How a base is tuned to one subject."""

    phrase: Fixed[str]
    """What stands for the subject in a prompt. In it "{word}" is the subject's noun, whatever the prompt calls it, and
    "<subject>" the token that is learned."""
    initial: Fixed[str] = _WORD
    """The words whose mean embedding the learned token begins as."""
    unet: Fixed[Literal["nothing", "keys-values", "everything"]]
    """What of the UNet is trained."""
    prior_pictures: Fixed[NonNegativeInt] = 0
    """How many of the base's own pictures of the class are learned beside the subject's, one for one; each half of a batch."""
    prior_weight: NonNegativeFloat = 1.0
    """How much the error on them counts."""
    training: TrainingOptions

    @model_validator(mode="after")
    def _is_a_way(self) -> TuningRecipe:
        for name, text in (("phrase", self.phrase), ("initial", self.initial)):
            if not text.strip():
                raise ValueError(f"{name} must not be empty")
            if set("{}") & set(_named(text, "")):
                raise ValueError(f"{name} may hold {{word}} and no other braces, but is {text!r}")
        if TOKEN not in self.phrase and self.unet == "nothing":
            raise ValueError(f"nothing is trained: name {TOKEN} in phrase, or train something of the unet")
        if TOKEN not in self.phrase and self.initial != _WORD:
            raise ValueError(f"initial would have no effect, because phrase does not name {TOKEN}; leave it out")
        if not self.prior_pictures and self.prior_weight != 1:
            raise ValueError("prior_weight would have no effect without prior_pictures; leave it out")
        if self.prior_pictures and self.training.train_batch_size % 2:
            raise ValueError("with prior_pictures each batch is half of them, so that train_batch_size must be even")
        return self

    def said(self, word: str) -> str:
        """Return what stands for a subject that is a `word`."""
        return _named(self.phrase, word)

    def prompt(self, prompt: str, word: str, noun: str, tokenizer: PreTrainedTokenizerBase) -> str:
        """Return a prompt that calls the subject by the phrase as it was learned, instead of by `word`.

        Raises:
            InputError: the prompt does not say the word, see `find_word`.
        """
        found = find_word(prompt, word, tokenizer, occurrence=1)
        before, said = prompt[: found.start], self.said(noun)
        article = re.search(r"\b(a)n? $", before, re.IGNORECASE)
        if article is not None:  # "an owl", but "a <subject> owl"
            named = with_article(said)
            before, said = before[: article.start()], article[1] + named[1:] if named != said else said
        return before + said + prompt[found.start + len(found.text) :]


def _named(text: str, word: str) -> str:
    return text.replace(_WORD, word)


class TunedBase(nn.Module):
    """Copies of a base's UNet and text encoder, of which some parameters are trained."""

    def __init__(self, base: RealCustomPipeline, recipe: TuningRecipe, word: str) -> None:
        super().__init__()
        self.unet, self.text_encoder = copy.deepcopy(base.unet), copy.deepcopy(base.text_encoder)
        self.tokenizer = copy.deepcopy(base.tokenizer)
        self.requires_grad_(False)
        if TOKEN in recipe.phrase:
            self._learn_token(base, _named(recipe.initial, word))
        if recipe.unet == "everything":
            self.unet.requires_grad_(True)
        elif recipe.unet == "keys-values":
            for layer in cross_attention_layers(self.unet).values():
                layer.to_k.requires_grad_(True)
                layer.to_v.requires_grad_(True)

    def train(self, mode: bool = True) -> TunedBase:
        """Set the UNet's mode; the text encoder never drops anything out, as in every other run here."""
        super().train(mode)
        self.text_encoder.eval()
        return self

    def _learn_token(self, base: RealCustomPipeline, initial: str) -> None:
        if base.text_encoder_2 is not None:
            raise InputError("a token is learned for one text encoder, and this base has two; tune its UNet instead")
        numbers = self.tokenizer(initial, add_special_tokens=False).input_ids
        self.tokenizer.add_tokens([TOKEN])
        self.text_encoder.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        weight = self.text_encoder.get_input_embeddings().weight
        with torch.no_grad():
            weight[-1] = weight[numbers].mean(dim=0)
        weight.requires_grad_(True)
        weight.register_hook(_last_row)

    def forward(self, noisy: NoisyBatch, text: TextStates) -> Tensor:
        """Return the prediction for noisy latents."""
        return predict_noisy(self.unet, noisy, text)


def _last_row(gradient: Tensor) -> Tensor:
    """Return the gradient of an embedding of which only the last token is learned."""
    kept = torch.zeros_like(gradient)
    kept[-1] = gradient[-1]
    return kept


class TuningSource:
    """The subject's picture under changing captions; every other example is one of the class, if there are any."""

    def __init__(self, picture: np.ndarray, phrase: str, word: str, prior: Sequence[np.ndarray], seed: int) -> None:
        self.picture, self.phrase, self.word, self.prior, self.seed = picture, phrase, word, prior, seed

    def __getitem__(self, number: int) -> Example:
        """Return example `number`; the class is at the odd ones."""
        rng = np.random.default_rng([self.seed, number])
        template = str(rng.choice(TEMPLATES))
        if self.prior and number % 2:
            picture = self.prior[int(rng.integers(len(self.prior)))]
            return Example(picture, template.format(with_article(self.word)), self.word, picture)
        return Example(self.picture, template.format(with_article(self.phrase)), self.phrase, self.picture)


class TuningObjective:
    """Mean squared error on the subject's picture, and on the class's (DreamBooth's prior preservation)."""

    def __init__(self, base: RealCustomPipeline, recipe: TuningRecipe, picture: np.ndarray, word: str) -> None:
        self.base, self.recipe, self.word, self._picture = base, recipe, word, picture
        self.model = TunedBase(base, recipe, word)
        self._learns_token = TOKEN in recipe.phrase
        self.scheduler = DDPMScheduler.from_config(base.scheduler.config)

    def prepare(self, device: torch.device) -> None:
        """Move the frozen parts to the device."""
        self.base.to(device)

    def parameter_groups(self) -> list[dict]:
        """Return the parameters that are trained; the tokens beside the learned one do not decay."""
        embedding = self.model.text_encoder.get_input_embeddings().weight
        others = [one for one in self.model.parameters() if one.requires_grad and one is not embedding]
        groups: list[dict] = [{"params": others}] if others else []
        return groups + ([{"params": [embedding], "weight_decay": 0.0}] if embedding.requires_grad else [])

    def loss(self, model: TunedBase, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the error at random noise levels."""
        if self._learns_token:
            text = encode_prompts(batch.captions, self.model.tokenizer, self.model.text_encoder, shortest=True)
        else:
            size = (batch.pixels.shape[2], batch.pixels.shape[3])
            text = self.base.text_states(batch.captions, size, shortest=True)
        noisy = draw_noisy(encode(self.base.vae, batch.pixels), self.scheduler, generator)
        errors = sample_errors(model(noisy, text), noisy)
        if not self.recipe.prior_pictures:
            return errors.mean(), {}
        own, prior = errors[::2].mean(), errors[1::2].mean()
        return own + self.recipe.prior_weight * prior, {"loss/subject": float(own.detach())}

    def validate(self, model: TunedBase) -> tuple[dict[str, float], Image.Image | None]:
        """Return the subject's picture beside three of the tuned base, which show how well it has been learned."""
        pipeline = self.pipeline(model)
        said = f"a picture of {with_article(self.recipe.said(self.word))}"
        generator = [torch.Generator().manual_seed(seed) for seed in range(3)]
        side = self._picture.shape[0]
        made = pipeline([said] * 3, generator=generator, height=side, width=side).images
        return {}, sheet([Image.fromarray(self._picture), *made], columns=4)

    def pipeline(self, model: TunedBase) -> RealCustomPipeline:
        """Return the tuned base, which is a plain text-to-image model."""
        parts = {
            **self.base.components, "adapter": None,
            "unet": model.unet, "text_encoder": model.text_encoder, "tokenizer": model.tokenizer,
        }  # fmt: skip
        tuned = RealCustomPipeline(**parts, **self.base.own_settings)
        tuned.set_progress_bar_config(disable=True)
        return tuned

    def export(self, model: TunedBase, folder: Path) -> None:
        """Write the tuned base."""
        self.pipeline(model).save_pretrained(folder)


def tune(
    base: RealCustomPipeline, recipe: TuningRecipe, picture: np.ndarray, word: str, folder: Path
) -> tuple[RealCustomPipeline, float]:
    """Tune a base to the subject of a picture; go on with it if `folder` holds a beginning.

    Args:
        base: a text-to-image model; it stays as it is, and where it is.
        recipe: how.
        picture: `[h, w, 3]` uint8, the subject.
        word: what it is.
        folder: for checkpoints, log and the tuned base.

    Returns:
        The tuned base, and the seconds that it took, over all sessions: the base's pictures of the class, the training with
        its checkpoints and exports, and loading the result.

    Raises:
        InputError: the beginning was made by another recipe.
    """
    recipes.check_changes(recipe, folder)
    seed, side, device, started = recipe.training.seed, picture.shape[0], base.device, time.monotonic()
    recipes.record(recipe, folder)
    prior = _of_the_class(base, recipe, word, side, folder / "prior")
    torch.manual_seed(seed)
    objective = TuningObjective(base, recipe, picture, word)
    source = TuningSource(picture, recipe.said(word), word, prior, seed)
    progress = loop.train(objective, source, recipe.training, folder, spent=time.monotonic() - started)
    trained = time.monotonic()
    base.to(device)
    tuned = RealCustomPipeline.from_pretrained(folder / "export").to(device)
    tuned.set_progress_bar_config(disable=True)
    return tuned, progress.seconds + time.monotonic() - trained


def _of_the_class(
    base: RealCustomPipeline, recipe: TuningRecipe, word: str, side: int, folder: Path
) -> list[np.ndarray]:
    """Return the base's own pictures of what the subject is, `[h, w, 3]` uint8; those that `folder` lacks are made."""
    folder.mkdir(exist_ok=True)
    first = recipe.training.seed
    paths = {seed: folder / f"{seed}.png" for seed in range(first, first + recipe.prior_pictures)}
    missing = [seed for seed, path in paths.items() if not path.exists()]
    for start in range(0, len(missing), 16):
        seeds = missing[start : start + 16]
        generator = [torch.Generator().manual_seed(seed) for seed in seeds]
        made = base([with_article(word)] * len(seeds), generator=generator, height=side, width=side)
        for seed, one in zip(seeds, made.images, strict=True):
            write_picture(one, paths[seed])
    return [np.asarray(read_picture(path).convert("RGB")) for path in paths.values()]


class Tuned:
    """A base that is tuned to every subject before it makes the subject's pictures.

    Args:
        pipeline: the base.
        recipe: how it is tuned.
        folder: receives `tuning.jsonl`, a line with the seconds of each subject; `tuning/SUBJECT.png`, the reference beside
            what the tuned base takes the subject for; and the weights of the last subject.
    """

    def __init__(self, pipeline: RealCustomPipeline, recipe: TuningRecipe, folder: Path) -> None:
        self.pipeline, self.recipe, self._folder = pipeline, recipe, folder
        self._current: tuple[str, RealCustomPipeline] | None = None

    def describe(self) -> dict[str, Any]:
        """Return the recipe."""
        return {"method": self.recipe.model_dump(mode="json")}

    def make(self, requests: Sequence[Request], settings: Settings) -> list[Made]:
        """Return pictures.

        Raises:
            InputError: a request has several subjects; a base is tuned to one.
        """
        if len(requests[0].subjects) > 1:
            raise InputError("a base is tuned to one subject; pictures of several are not made by a recipe of tuning")
        pictures: list[Image.Image] = []
        for _, group in groupby(requests, key=lambda one: one.subjects[0].name):
            own, said = list(group), self.pipeline.tokenizer
            prompts = [self.recipe.prompt(one.prompt, one.subjects[0].word, one.subjects[0].noun, said) for one in own]
            tuned = self._tuned(own[0].subjects[0])
            pictures += tuned(prompts, generator=generators(own), **settings.arguments()).images
        return [Made(picture) for picture in pictures]

    def _tuned(self, subject: Shown) -> RealCustomPipeline:
        """Return the base tuned to a subject; only that of the last one is kept."""
        if self._current is not None and self._current[0] == subject.name:
            return self._current[1]
        work = self._folder / "tuning" / subject.name
        for other in work.parent.glob("*/"):
            if other != work:
                shutil.rmtree(other)
        side = self.pipeline.side
        picture = np.asarray(ImageOps.fit(as_seen(subject.picture), (side, side), Image.Resampling.BICUBIC))
        tuned, seconds = tune(self.pipeline, self.recipe, picture, subject.noun, work)
        shown, log = work.parent / f"{work.name}.png", self._folder / "tuning.jsonl"
        if not shown.exists():
            with log.open("a") as stream:
                stream.write(json.dumps({"subject": subject.name, "seconds": round(seconds, 1)}) + "\n")
            shutil.copy(work / f"samples-{self.recipe.training.max_train_steps:07d}.png", shown)
        self._current = subject.name, tuned
        return tuned
