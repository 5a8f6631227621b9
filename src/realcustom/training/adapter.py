"""Learning the RealCustom part: the reference lowers the same diffusion loss (RC section 3.2).

The paper trains it on a frozen base (`AdapterObjective`). A base that is small and trained here can also learn together
with it (`JointObjective`), half of its batches without any reference, before it is frozen and the part finished.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from jaxtyping import Float
from PIL import Image
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from realcustom.adapter import RealCustomAdapter
from realcustom.attention import Influence, attached
from realcustom.data.examples import Batch, ExampleSource, PartlyTextOnly, collate
from realcustom.data.sources import DataOptions, open_source
from realcustom.errors import InputError
from realcustom.loading import construct, load_model, load_strictly
from realcustom.masks import area_mask
from realcustom.options import PositiveShare, Share
from realcustom.pictures import sheet, to_pictures
from realcustom.pipeline import RealCustomPipeline
from realcustom.placement import grid_side, place_tokens
from realcustom.prompts import TextStates
from realcustom.subject_encoder import as_arguments
from realcustom.training.base import measure_text_only, measured_noise, noun_columns
from realcustom.training.diffusion import NoisyBatch, draw_noisy, encode, predict_noisy, sample_errors
from realcustom.training.options import Fixed, Recipe


class AdapterRecipe(Recipe):
    """All that a run of `realcustom train adapter` needs."""

    base: Fixed[Path]
    """Folder of the text-to-image model in diffusers' layout, or its hub id."""
    image_encoder: Fixed[Path | None] = None
    """Folder of a CLIP or SigLIP image encoder of transformers; the base's own autoencoder sees the subject if null."""
    image_encoder_2: Fixed[Path | None] = None
    """Folder of a DINOv2 with registers, beside SigLIP."""
    adapter: Fixed[dict[str, Any]] = {}
    """Arguments of `RealCustomAdapter` that do not follow from the base; not read if there is an adapter to start from."""
    initial_adapter: Fixed[Path | None] = None
    """Folder of an adapter to start from."""
    finer: Fixed[bool] = False
    """Take a quarter of each of its features, so that it has four times as many tokens."""
    image_prompt: Fixed[bool] = False
    """Leave out its scoring and its places, so that it becomes an image prompt, see `RealCustomAdapter.as_image_prompt`."""
    caption_dropout: Share = 0.1
    """Share of captions that are replaced by the empty one."""
    frame_jitter: NonNegativeFloat = 0.1
    """How wrong the subject's frame in the picture may be, for an adapter that places its tokens: standard deviation of its
    centre, as a share of its size; that of the logarithm of its size is twice as large. The masks of the embedded model give
    frames that are as wrong as 0.09 makes them (`validation/frame_centre`, `frame_size_spread`); its recipes take less, 0.02,
    because what cannot be known is predicted as a blur."""
    text_jitter: NonNegativeFloat = 0.0
    """How wrong the text's states may be, as a share of each one's length. A word that no caption says is told by a state near
    that of a word that one does: of the embedded model's well-known nouns, "puppy" lies .7 from "dog" and 1 from any other."""
    timestep_shift: PositiveFloat = 1.0
    """Above 1, noisy timesteps are drawn more often: that is where a reference decides (see `draw_noisy`)."""
    foreground_weight: PositiveFloat = 1.0
    """How much an error on a thing counts, against one behind it; needs a source that knows where its things are."""
    lowest_token_ratio: PositiveShare = 0.3
    """gamma_num is drawn from here to 1 for each batch (RC 10)."""
    scoring_rate: NonNegativeFloat = 1.0
    """Learning rate of the scoring module, as a multiple of the others'."""
    reach_rate: NonNegativeFloat = 1.0
    """Likewise of the reaches of heads that prefer near tokens: a few numbers on a logarithmic scale, which move slowly."""
    validation_examples: PositiveInt = 64
    drawn_examples: NonNegativeInt = 40
    """How many validation examples are drawn as pictures, with the next three."""
    num_inference_steps: PositiveInt = 25
    guidance_scale: float = 4.0
    subject_guidance_scale: float = 4.0

    @model_validator(mode="after")
    def _there_is_something_to_change(self) -> AdapterRecipe:
        if self.initial_adapter is None and (self.finer or self.image_prompt):
            name = "finer" if self.finer else "image_prompt"
            raise ValueError(f"{name} needs initial_adapter: a new adapter is made by the options of adapter")
        return self


class JointRecipe(AdapterRecipe):
    """All that a run of `realcustom train joint` needs."""

    reference_dropout: Fixed[Share] = 0.5
    """Share of batches in which the base sees no reference."""
    text_data: Fixed[DataOptions | None] = None
    """Where the examples of those batches come from; like the others if null."""

    def examples(self) -> ExampleSource:
        """Return what the run sees."""
        seed = self.training.seed
        text_source = None if self.text_data is None else open_source(self.text_data, "train", seed=seed)
        return PartlyTextOnly(
            super().examples(), self.reference_dropout, batch_size=self.training.train_batch_size, seed=seed,
            text_source=text_source,
        )  # fmt: skip


@dataclass(frozen=True)
class Reference:
    """The subjects of a batch, as an adapter takes them."""

    features: Float[Tensor, "b i c_f"]
    frames: Float[Tensor, "b 2 3"] | None
    """Of the subjects, in the pictures to be made and in the references; None for an adapter that does not place its tokens."""
    token_ratio: float
    more: tuple[Any, ...] = ()
    """Features of other layers and scales, as `RealCustomAdapter.tokens` takes them."""

    @property
    def positions(self) -> Float[Tensor, "b i 2"] | None:
        """Return where the tokens lie in the pictures to be made."""
        if self.frames is None:
            return None
        return place_tokens(grid_side(self.features.shape[1]), self.frames[:, 1], self.frames[:, 0])

    def of_others(self) -> Reference:
        """Return each subject in the place of the next one."""
        frames = self.frames
        if frames is not None:
            frames = torch.stack([frames[:, 0], frames[:, 1].roll(1, dims=0)], dim=1)
        more = tuple(
            [one.roll(1, dims=0) for one in many] if isinstance(many, list) else many.roll(1, dims=0)
            for many in self.more
        )
        return replace(self, features=self.features.roll(1, dims=0), frames=frames, more=more)


class CustomizedUNet(nn.Module):
    """A UNet and the RealCustom part as one model, for a run that trains both."""

    def __init__(self, unet: UNet2DConditionModel, adapter: RealCustomAdapter) -> None:
        super().__init__()
        self.unet, self.adapter = unet, adapter

    def forward(
        self,
        noisy: NoisyBatch,
        text: TextStates,
        reference: Reference | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Return the prediction for noisy latents, with the subject of a reference or without any."""
        return predict(self.unet, self.adapter, noisy, text, reference)


def predict(
    unet: UNet2DConditionModel,
    adapter: nn.Module,
    noisy: NoisyBatch,
    text: TextStates,
    reference: Reference | None,
) -> Float[Tensor, "b c h w"]:
    """Return the UNet's prediction, with the subject of a reference if there is any (RC 4-10)."""
    with attached(unet) as tap:
        tap.latent_size = (noisy.noisy.shape[2], noisy.noisy.shape[3])
        if reference is not None:
            view = adapter(
                reference.features, text, noisy.noisy, noisy.alpha,
                token_ratio=reference.token_ratio, positions=reference.positions, more=reference.more,
            )  # fmt: skip
            tap.subjects = [Influence([view])]
        return predict_noisy(unet, noisy, text)


def _initial(recipe: AdapterRecipe, unet: UNet2DConditionModel) -> RealCustomAdapter:
    """Return the adapter with which a run starts."""
    if recipe.initial_adapter is None:
        return construct(RealCustomAdapter.for_unet, {"unet": unet, **recipe.adapter}, "adapter")
    adapter = load_strictly(RealCustomAdapter, recipe.initial_adapter)
    if recipe.finer:
        adapter = adapter.finer()
    return adapter.as_image_prompt() if recipe.image_prompt else adapter


def jittered(frames: Float[Tensor, "b 2 3"], jitter: float, generator: torch.Generator) -> Float[Tensor, "b 2 3"]:
    """Return the frames, those in the pictures a little wrong, see `AdapterRecipe.frame_jitter`."""
    noise = jitter * torch.randn(len(frames), 3, generator=generator).to(frames)
    centre, size = frames[:, 0, :2], frames[:, 0, 2:]
    moved = torch.cat([centre + size * noise[:, :2], size * (2 * noise[:, 2:]).exp()], dim=1)
    return torch.stack([moved, frames[:, 1]], dim=1)


def jittered_text(text: TextStates, jitter: float, generator: torch.Generator) -> TextStates:
    """Return the texts, each token's state off by a share of its length, from 0 to `jitter` alike for all of a text's."""
    states = text.states
    share = jitter * torch.rand(len(states), 1, 1, generator=generator)
    direction = F.normalize(torch.randn(states.shape, generator=generator), dim=-1)
    return replace(text, states=states + (share * direction).to(states) * states.norm(dim=-1, keepdim=True))


Trained = TypeVar("Trained", bound=nn.Module)


class _ReferenceObjective(ABC, Generic[Trained]):
    """Mean squared error of a base's prediction with the subject's visual attention added (RC 1, 4-10)."""

    model: Trained

    def __init__(self, recipe: AdapterRecipe, validation: ExampleSource) -> None:
        self.recipe = recipe
        encoders = {
            name: load_model(path)
            for name, path in (("image_encoder", recipe.image_encoder), ("image_encoder_2", recipe.image_encoder_2))
            if path is not None
        }
        self.base = RealCustomPipeline.from_pretrained(recipe.base, adapter=None, **encoders)
        for part in self.base.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False)
        self.scheduler = DDPMScheduler.from_config(self.base.scheduler.config)
        self.adapter = _initial(recipe, self.base.unet)
        if self.adapter.log_precisions and recipe.data.source == "folder":
            raise InputError(
                "an adapter that places its tokens learns from a source that knows where its subjects are: stickers; "
                "take adapter.placed=false for folders"
            )
        if recipe.foreground_weight != 1 and recipe.data.source == "folder":
            raise InputError(
                "foreground_weight needs a source that knows where its things are: stickers; take 1 for folders"
            )
        self._scoring_gradients: dict[str, float] = {}
        for name, parameter in self.adapter.scoring.named_parameters() if self.adapter.scoring else ():
            parameter.register_post_accumulate_grad_hook(self._watch(name))
        self.held_out = collate([validation[number] for number in range(recipe.validation_examples)])
        if self.adapter.log_precisions:
            self._require_square_grid()

    def _require_square_grid(self) -> None:
        """Check that the adapter's tokens are the cells of a square, each of which has its place."""
        seen = self.reference(self.held_out.references[:1], self.held_out.frames[:1], 1.0)
        with torch.no_grad():
            grid_side(self.adapter.tokens(seen.features, *seen.more).shape[1])

    def prepare(self, device: torch.device) -> None:
        """Move the frozen parts and what is held out to the device."""
        self.held_out = self.held_out.to(device)
        self.base.to(device)

    def parameter_groups(self) -> list[dict]:
        """Return the scoring module and the reaches with rates of their own, and everything else that is trained."""
        scoring = list(self.adapter.scoring.parameters()) if self.adapter.scoring else []
        reaches = list(self.adapter.log_precisions.parameters())
        known = {id(parameter) for parameter in scoring + reaches}
        others = [parameter for parameter in self.model.parameters() if id(parameter) not in known]
        groups: list[dict] = [{"params": others}]
        if scoring:
            groups.append({"params": scoring, "scale": self.recipe.scoring_rate})
        if reaches:
            groups.append({"params": reaches, "scale": self.recipe.reach_rate, "weight_decay": 0.0})
        return groups

    def loss(self, model: Trained, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the error at random noise levels, each picture conditioned on its reference if the batch shows any."""
        dropped = torch.rand(len(batch.captions), generator=generator) < self.recipe.caption_dropout
        captions = ["" if drop else caption for caption, drop in zip(batch.captions, dropped, strict=True)]
        text = self.base.text_states(captions, (batch.pixels.shape[2], batch.pixels.shape[3]), shortest=True)
        text = jittered_text(text, self.recipe.text_jitter, generator)
        low = self.recipe.lowest_token_ratio
        token_ratio = low + (1 - low) * float(torch.rand((), generator=generator))
        latents = encode(self.base.vae, batch.pixels)
        noisy = draw_noisy(latents, self.scheduler, generator, timestep_shift=self.recipe.timestep_shift)
        reference = None
        if batch.conditioned:
            frames = jittered(batch.frames, self.recipe.frame_jitter, generator)
            reference = self.reference(batch.references, frames, token_ratio)
        loss = sample_errors(
            self.predict(model, noisy, text, reference), noisy, self._cell_weights(batch, noisy)
        ).mean()
        if reference is None:
            return loss, {"loss/text_only": float(loss.detach())}
        scoring_gradient = sum(square for square in self._scoring_gradients.values()) ** 0.5
        return loss, {"loss/subject": float(loss.detach()), "scoring_gradient": scoring_gradient}

    def _cell_weights(self, batch: Batch, noisy: NoisyBatch) -> Tensor | None:
        """Return what an error in each cell counts, `[b, h, w]`; None if all count the same."""
        if self.recipe.foreground_weight == 1 or batch.foregrounds is None:
            return None
        covered = area_mask(batch.foregrounds, (noisy.noisy.shape[2], noisy.noisy.shape[3]))
        return 1 + (self.recipe.foreground_weight - 1) * covered

    def reference(self, pictures: Tensor, frames: Tensor, token_ratio: float) -> Reference:
        """Return pictures `[b, 3, h, w]` of subjects, and their frames `[b, 2, 3]`, as an adapter takes them."""
        encoder = self.base.subject_encoder
        with torch.no_grad():
            seen = encoder.features((pictures + 1) / 2, self.adapter)
        features, *more = as_arguments(seen, torch.float32)
        return Reference(features, frames if self.adapter.log_precisions else None, token_ratio, tuple(more))

    @abstractmethod
    def predict(self, model: Trained, noisy: NoisyBatch, text: TextStates, reference: Reference | None) -> Tensor:
        """Return the prediction of `model`."""

    @abstractmethod
    def pipeline(self, model: Trained) -> RealCustomPipeline:
        """Return the pipeline with the weights of `model`."""

    def validate(self, model: Trained) -> tuple[dict[str, float], Image.Image | None]:
        """Return, by timestep and on the same noise, the error without, with the right and with a wrong subject.

        `right/T` and `wrong/T` are ratios to the error without a subject; below 1 the reference helps. Tokens are placed by
        the subject's true frame in the picture. The text-only figures are those of the base's own validation.
        """
        batch, figures = self.held_out, dict[str, float]()
        latents, right = encode(self.base.vae, batch.pixels), self.reference(batch.references, batch.frames, 0.8)
        wrong = right.of_others()
        text = self.base.text_states(batch.captions, (batch.pixels.shape[2], batch.pixels.shape[3]), shortest=True)
        layers = self.base.config.mask_layers
        columns, unet = noun_columns(batch, self.base.tokenizer, text), self.pipeline(model).unet
        for step, noisy in measured_noise(latents, self.scheduler):
            without, text_only = measure_text_only(unet, noisy, text, columns, batch, step, layers)
            figures |= text_only
            for name, reference in (("right", right), ("wrong", wrong)):
                errors = sample_errors(self.predict(model, noisy, text, reference), noisy)
                figures[f"{name}/{step}"] = float(errors.mean() / without.mean())
        return figures, self.draw(model) if all(batch.words) and self.recipe.drawn_examples else None

    def draw(self, model: Trained) -> Image.Image:
        """Return a sheet of held-out references, pictures of their subjects, and the same seeds without a subject."""
        pipeline = self.pipeline(model)
        pipeline.set_progress_bar_config(disable=True)
        recipe, side = self.recipe, self.recipe.data.resolution
        count = min(recipe.drawn_examples, len(self.held_out.captions))
        references = to_pictures(self.held_out.references[:count])
        captions, words = self.held_out.captions[:count], self.held_out.words[:count]
        rows = [references]
        for scale in (1.0, 0.0):
            rows.append(
                pipeline(
                    captions, references, words, occurrence=1, subject_scale=scale, height=side, width=side,
                    num_inference_steps=recipe.num_inference_steps, guidance_scale=recipe.guidance_scale,
                    subject_guidance_scale=recipe.subject_guidance_scale,
                    generator=[torch.Generator().manual_seed(number) for number in range(count)],
                ).images
            )  # fmt: skip
        columns = min(count, 10)
        blocks = [row[start : start + columns] for start in range(0, count, columns) for row in rows]
        return sheet([picture for block in blocks for picture in block], columns=columns)

    def _watch(self, name: str) -> Any:
        def remember(parameter: Tensor) -> None:
            if parameter.grad is not None:
                self._scoring_gradients[name] = float(parameter.grad.square().sum())

        return remember


class AdapterObjective(_ReferenceObjective[RealCustomAdapter]):
    """The base is frozen, and every batch shows its references: the paper's way."""

    def __init__(self, recipe: AdapterRecipe, validation: ExampleSource) -> None:
        super().__init__(recipe, validation)
        self.model = self.adapter

    def predict(
        self, model: RealCustomAdapter, noisy: NoisyBatch, text: TextStates, reference: Reference | None
    ) -> Tensor:
        """Return the frozen base's prediction."""
        return predict(self.base.unet, model, noisy, text, reference)

    def pipeline(self, model: RealCustomAdapter) -> RealCustomPipeline:
        """Return the frozen base with `model`."""
        return RealCustomPipeline(
            **{**self.base.components, "adapter": model}, mask_layers=self.base.config.mask_layers
        )

    def export(self, model: RealCustomAdapter, folder: Path) -> None:
        """Write the adapter."""
        model.save_pretrained(folder / "adapter")


class JointObjective(_ReferenceObjective[CustomizedUNet]):
    """The base learns, too; a share of the batches shows no references, so that it stays a text-to-image model."""

    def __init__(self, recipe: JointRecipe, validation: ExampleSource) -> None:
        super().__init__(recipe, validation)
        self.model = CustomizedUNet(self.base.unet.requires_grad_(True), self.adapter)

    def predict(
        self, model: CustomizedUNet, noisy: NoisyBatch, text: TextStates, reference: Reference | None
    ) -> Tensor:
        """Return the learning base's prediction."""
        return model(noisy, text, reference)

    def pipeline(self, model: CustomizedUNet) -> RealCustomPipeline:
        """Return both parts of `model` with the frozen rest."""
        parts = {**self.base.components, "unet": model.unet, "adapter": model.adapter}
        return RealCustomPipeline(**parts, mask_layers=self.base.config.mask_layers)

    def export(self, model: CustomizedUNet, folder: Path) -> None:
        """Write the whole model, the adapter included."""
        self.pipeline(model).save_pretrained(folder)
