"""Learning the RealCustom part on a frozen base (RC section 3.2): the reference lowers the same diffusion loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import Tensor

from realcustom.adapter import RealCustomAdapter
from realcustom.attention import Subject, attached
from realcustom.data.examples import Batch, ExampleSource, collate
from realcustom.data.sources import DataOptions
from realcustom.latents import to_latents
from realcustom.loading import load_strictly
from realcustom.options import Options
from realcustom.pictures import sheet, to_pictures
from realcustom.pipeline import RealCustomPipeline
from realcustom.projector import latent_features
from realcustom.prompts import TextStates, encode_prompts
from realcustom.training.base import MEASURED_TIMESTEPS
from realcustom.training.diffusion import NoisyBatch, draw_noisy, make_noisy, sample_errors
from realcustom.training.options import TrainingOptions


class AdapterRecipe(Options):
    """All that a run of `realcustom train adapter` needs."""

    output_dir: Path
    data: DataOptions
    training: TrainingOptions
    base: Path
    """Folder of the text-to-image model in diffusers' layout."""
    adapter: dict[str, Any]
    """Arguments of `RealCustomAdapter` that do not follow from the base."""
    initial_adapter: Path | None = None
    """Folder of an adapter to start from."""
    caption_dropout: float = 0.1
    """Share of captions that are replaced by the empty one."""
    lowest_token_ratio: float = 0.3
    """gamma_num is drawn from here to 1 for each batch (RC 10)."""
    scoring_rate: float = 10.0
    """Learning rate of the scoring module, as a multiple of the others'; its gradients are thousands of times smaller."""
    validation_examples: int = 64
    drawn_examples: int = 40
    """How many validation examples are drawn as pictures."""


class AdapterObjective:
    """Mean squared error of the frozen base's prediction with the subject's visual attention added (RC 1, 4-10)."""

    def __init__(self, recipe: AdapterRecipe, validation: ExampleSource) -> None:
        self.recipe = recipe
        self.base = RealCustomPipeline.from_pretrained(recipe.base)
        for part in (self.base.vae, self.base.text_encoder, self.base.unet):
            part.requires_grad_(False)
        self.scheduler = DDPMScheduler.from_config(self.base.scheduler.config)
        self.model = (
            load_strictly(RealCustomAdapter, recipe.initial_adapter)
            if recipe.initial_adapter
            else RealCustomAdapter.for_unet(self.base.unet, **recipe.adapter)
        )
        self._scoring_gradients: dict[str, float] = {}
        for name, parameter in self.model.scoring.named_parameters():
            parameter.register_post_accumulate_grad_hook(self._watch(name))
        self.held_out = collate([validation[number] for number in range(recipe.validation_examples)])

    def prepare(self, device: torch.device) -> None:
        """Move the frozen parts to the device."""
        self.base.to(device)
        if device.type == "cpu":
            self.base.unet.set_attn_processor(AttnProcessor())  # as in `base.py`

    def parameter_groups(self) -> list[dict]:
        """Return the scoring module with its own rate, and everything else."""
        scoring = list(self.model.scoring.parameters())
        known = {id(parameter) for parameter in scoring}
        others = [parameter for parameter in self.model.parameters() if id(parameter) not in known]
        return [{"params": others}, {"params": scoring, "scale": self.recipe.scoring_rate}]

    def loss(
        self, model: RealCustomAdapter, batch: Batch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the error at random noise levels, each picture conditioned on its reference."""
        dropped = torch.rand(len(batch.captions), generator=generator) < self.recipe.caption_dropout
        captions = ["" if drop else caption for caption, drop in zip(batch.captions, dropped, strict=True)]
        text = encode_prompts(captions, self.base.tokenizer, self.base.text_encoder, shortest=True)
        low = self.recipe.lowest_token_ratio
        token_ratio = low + (1 - low) * float(torch.rand((), generator=generator))
        noisy = draw_noisy(self.encode(batch.pixels), self.scheduler, generator)
        features = latent_features(self.encode(batch.references))
        subject = model(features, text, noisy.noisy, noisy.alpha, token_ratio=token_ratio)
        loss = sample_errors(self._predict(noisy, text, [subject]), noisy).mean()
        figures = {"scoring_gradient": sum(square for square in self._scoring_gradients.values()) ** 0.5}
        return loss, figures

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Return the scaled latents of `pixels [b, 3, h, w]`."""
        return to_latents(self.base.vae, pixels).float()

    def validate(self, model: RealCustomAdapter) -> tuple[dict[str, float], Image.Image | None]:
        """Return, by timestep and on the same noise, the error without, with the right and with a wrong subject.

        `right/T` and `wrong/T` are ratios to the error without a subject; below 1 the reference helps.
        """
        batch, figures = self.held_out, {}
        latents, references = self.encode(batch.pixels), self.encode(batch.references)
        text = encode_prompts(batch.captions, self.base.tokenizer, self.base.text_encoder, shortest=True)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(latents)
        for step in MEASURED_TIMESTEPS:
            noisy = make_noisy(latents, self.scheduler, torch.full((len(latents),), step, device=latents.device), noise)
            without = sample_errors(self._predict(noisy, text, []), noisy).mean()
            figures[f"error/{step}"] = float(without)
            for name, shown in (("right", references), ("wrong", references.roll(1, dims=0))):
                subject = model(latent_features(shown), text, noisy.noisy, noisy.alpha, token_ratio=0.8)
                figures[f"{name}/{step}"] = float(
                    sample_errors(self._predict(noisy, text, [subject]), noisy).mean() / without
                )
        return figures, self.draw(model) if all(batch.words) and self.recipe.drawn_examples else None

    def draw(self, model: RealCustomAdapter) -> Image.Image:
        """Return a sheet of held-out references, pictures of their subjects, and the same seeds without a subject."""
        pipeline = RealCustomPipeline(**{**self.base.components, "adapter": model}, num_inference_steps=25)
        pipeline.set_progress_bar_config(disable=True)
        count = self.recipe.drawn_examples
        references = to_pictures(self.held_out.references[:count])
        captions, words = self.held_out.captions[:count], self.held_out.words[:count]
        rows: list[list[Image.Image]] = [references, [], []]
        for number, (reference, caption, word) in enumerate(zip(references, captions, words, strict=True)):
            for row, scale in ((rows[1], 1.0), (rows[2], 0.0)):
                row += pipeline(
                    caption, reference, word, occurrence=1, subject_scale=scale, guidance_scale=4.0,
                    subject_guidance_scale=4.0, generator=torch.Generator().manual_seed(number),
                ).images  # fmt: skip
        columns = min(count, 10)
        blocks = [row[start : start + columns] for start in range(0, count, columns) for row in rows]
        return sheet([picture for block in blocks for picture in block], columns=columns)

    def export(self, model: RealCustomAdapter, folder: Path) -> None:
        """Write the adapter."""
        model.save_pretrained(folder / "adapter")

    def _predict(self, noisy: NoisyBatch, text: TextStates, subjects: Sequence[Subject]) -> Tensor:
        with attached(self.base.unet) as tap:
            tap.latent_size, tap.subjects = (noisy.noisy.shape[2], noisy.noisy.shape[3]), subjects
            return self.base.unet(noisy.noisy, noisy.timesteps, text.states, encoder_attention_mask=text.keep).sample

    def _watch(self, name: str) -> Any:
        def remember(parameter: Tensor) -> None:
            if parameter.grad is not None:
                self._scoring_gradients[name] = float(parameter.grad.square().sum())

        return remember
