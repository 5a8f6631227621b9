"""Subject-driven text-to-image: the one denoising loop of RealCustom.

Every step runs two branches from the same latent: T2I, text only, says where the target word looks; TI2I, text and
subject, paints the subject there (RC section 3.3).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.image_processor import VaeImageProcessor
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from realcustom.adapter import RealCustomAdapter, alpha_at
from realcustom.attention import AttentionTap, attached, cross_attention_layers
from realcustom.errors import InputError, NotANumber
from realcustom.guidance import cascade_guidance, direct_guidance
from realcustom.latents import Autoencoder, downscaling, to_latents, to_pixels
from realcustom.loading import load_components, resolve
from realcustom.masks import (
    MASK_MODES,
    NORMALIZATIONS,
    MaskMode,
    Normalization,
    aggregate,
    area_mask,
    combine,
    coverage,
    influence_scope,
    resize_mask,
)
from realcustom.pictures import as_seen
from realcustom.placement import FRAME_PACE, FRAME_SCOPE, frame_of, place_tokens
from realcustom.portrait import Portrait, cells_within, examine, fit_reference, fitted_box
from realcustom.projector import latent_features
from realcustom.prompts import TextStates, cut_off, encode_prompts, find_word, word_columns
from realcustom.report import RealCustomOutput, Report, SubjectMasks

logger = logging.getLogger(__name__)

StepCallback = Callable[["RealCustomPipeline", int, int, dict[str, Any]], dict[str, Any]]


_LARGEST_SIDE = 8192
"""Of a picture, in pixels."""

_LARGEST = 1000.0
"""Beyond it no guidance makes anything but noise, and float16 overflows."""


@dataclass(frozen=True)
class _SubjectViews:
    """The subject and the text of each picture."""

    tokens: Tensor
    keys_values: Mapping[str, tuple[Tensor, Tensor]]
    present: Tensor | None
    reference_frames: Tensor
    text: TextStates

    def rows(self, index: Tensor) -> _SubjectViews:
        """Return those of some pictures."""
        keep = None if self.text.keep is None else self.text.keep[index]
        return _SubjectViews(
            self.tokens[index],
            {name: (keys[index], values[index]) for name, (keys, values) in self.keys_values.items()},
            None if self.present is None else self.present[index],
            self.reference_frames[index],
            TextStates(self.text.states[index], keep),
        )


@dataclass
class _SubjectCall:
    """What one call of the pipeline knows of its subject, and what its steps have found."""

    views: _SubjectViews
    columns: Tensor
    given_mask: Tensor | None
    mask_mode: MaskMode
    mask_scope: float
    mask_normalization: Normalization
    mask_binary: bool
    token_ratio: float
    scales: Tensor
    guidance_scale: float
    subject_guidance_scale: float
    target_frames: Tensor | None = None
    masks: list[Tensor] = field(default_factory=list)
    strengths: list[list[float | None]] = field(default_factory=list)
    _parts: dict[tuple[int, ...], _SubjectViews] = field(default_factory=dict)

    def steady(self, found: Tensor) -> Tensor:
        """Return the subjects' frames: those that the step's masks give, and more of those of the steps before."""
        before = self.target_frames
        self.target_frames = found if before is None else torch.lerp(before, found, FRAME_PACE)
        return self.target_frames

    def part(self, rows: Tensor) -> _SubjectViews:
        """Return what belongs to some of the pictures; always the same object for the same ones, as the text's cache needs."""
        if len(rows) == len(self.scales):
            return self.views
        key = tuple(rows.tolist())
        if key not in self._parts:
            self._parts[key] = self.views.rows(rows)
        return self._parts[key]


class RealCustomPipeline(DiffusionPipeline):
    """Makes pictures of one given subject that obey a sentence; without a subject, plain text-to-image.

    One pipeline serves one call at a time.

    Args:
        vae: pictures to latents and back.
        text_encoder: its last hidden states condition the UNet.
        tokenizer: a fast tokenizer.
        unet: a stock UNet; it is left as it was after every call.
        scheduler: any of diffusers' schedulers on a discrete noise schedule.
        adapter: the trained part; without it only text-to-image is possible.
        num_inference_steps: this model's default.
        guidance_scale: this model's default w_t.
        subject_guidance_scale: this model's default w_i.
        mask_scope: this model's default gamma_scope.
        mask_binary: whether this model by default gives the whole scope the weight 1.
        mask_layers: beginnings of the names of the cross-attention layers whose attention makes the mask; all if not given,
            as in RC. A small model's noun may only be found in some of them.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _exclude_from_cpu_offload = ["adapter"]  # noqa: RUF012  (small, and called in parts, which no hook sees)
    _optional_components = ["adapter"]  # noqa: RUF012  (read by diffusers)
    _callback_tensor_inputs = ["latents", "mask"]  # noqa: RUF012

    def __init__(
        self,
        vae: Autoencoder,
        text_encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        adapter: RealCustomAdapter | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        subject_guidance_scale: float = 12.5,
        mask_scope: float = 0.25,
        mask_binary: bool = False,
        mask_layers: list[str] = [],  # noqa: B006  (diffusers reads this annotation and default; it is never changed)
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler, adapter=adapter
        )
        self.register_to_config(
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            subject_guidance_scale=subject_guidance_scale,
            mask_scope=mask_scope,
            mask_binary=mask_binary,
            mask_layers=list(mask_layers),
        )
        self._check_layers(mask_layers)
        self.vae_scale_factor = downscaling(vae)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> RealCustomPipeline:
        """Return a pipeline with every tensor loaded from safetensors, strictly.

        Args:
            pretrained_model_name_or_path: "stickers" for the embedded model, a folder in diffusers' layout, or a hub id,
                which is fetched as a snapshot and loaded locally.
            **kwargs: `revision`, `token` and `local_files_only` for the hub; components that replace the model's own;
                `dtype` and what else `DiffusionPipeline.from_pretrained` takes.

        Raises:
            InputError: there is no such model.
            CheckpointMismatch: a file does not hold the tensors that its model needs.
        """
        older = kwargs.pop("torch_dtype", None)
        dtype = kwargs.pop("dtype", None) or older
        hub = {name: kwargs.pop(name) for name in ("revision", "token", "local_files_only") if name in kwargs}
        folder = resolve(pretrained_model_name_or_path, **hub)
        given = {name: kwargs.pop(name) for name in cls._component_names() if name in kwargs}
        components = load_components(folder, cls._component_names(), given, dtype or torch.float32)
        try:
            return super().from_pretrained(folder, local_files_only=True, **components, **kwargs)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            raise InputError(f"{folder} is no whole model: {error}") from error

    @classmethod
    def _component_names(cls) -> list[str]:
        return ["vae", "text_encoder", "tokenizer", "unet", "scheduler", "adapter"]

    @property
    def num_timesteps(self) -> int:
        """How many evaluations the call at hand makes of each branch; read by diffusers' callbacks."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether the call at hand is to stop after this step."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        subject_image: Image.Image | Sequence[Image.Image] | None = None,
        subject_word: str | Sequence[str] | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        subject_guidance_scale: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        occurrence: int | None = None,
        mask: Tensor | np.ndarray | Image.Image | SubjectMasks | None = None,
        mask_mode: MaskMode = "replace",
        mask_scope: float | None = None,
        mask_normalization: Normalization = "max",
        mask_binary: bool | None = None,
        token_ratio: float = 0.8,
        subject_scale: float | Sequence[float] = 1.0,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> RealCustomOutput:
        """Make pictures.

        Args:
            prompt: one sentence or several.
            subject_image: the one picture of the subject, or a list with one for each prompt; None makes plain
                text-to-image pictures.
            subject_word: the real word (or phrase) of every prompt that is narrowed to the subject, or a list with one
                for each prompt.
            height: of the pictures in pixels, a multiple of the autoencoder's factor; the model's own size if not given.
            width: likewise.
            num_inference_steps: of the scheduler; the model's default if not given, like the next two.
            guidance_scale: w_t, how strongly the text is followed.
            subject_guidance_scale: w_i, how strongly the subject is followed.
            negative_prompt: what the unconditional branch is told; the empty sentence if not given.
            num_images_per_prompt: pictures for each prompt, next to each other in the result.
            eta: of DDIM; other schedulers do without.
            generator: of the first noise, or a list with one for each picture.
            latents: the first noise `[b, c, height / f, width / f]` instead, of unit variance.
            occurrence: which one, if a prompt says the word more than once; from 1.
            mask: where the subject may act: `[h, w]` or `[b, h, w]` in [0, 1] of any size, a grey picture, whose
                transparent parts count as black, or the masks of an earlier run, of which the final ones are taken.
            mask_mode: "replace" takes the mask instead of the word's attention, "intersect" and "union" take the smaller
                or larger of the two in each cell.
            mask_scope: gamma_scope, the share of the grid that the word's attention is narrowed to (RC 11).
            mask_normalization: how the attention is scaled, see `masks.aggregate`; RC's is "max".
            mask_binary: give the whole scope the weight 1 (an ablation of the paper); the model's default if not given.
            token_ratio: gamma_num, the share of the subject's tokens that act (RC 10), in (0, 1].
            subject_scale: multiplies the subject's contribution to every layer, or a list with one for each picture;
                0 gives the plain picture. With the same first noise twice, [1, 0] makes a picture and its text-only twin.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: False returns the plain tuple (images, masks, report).
            callback_on_step_end: called as `f(pipeline, step, timestep, tensors)` after every step; the "latents" that it
                returns replace the old ones. It may set `pipeline._interrupt` to stop.
            callback_on_step_end_tensor_inputs: which tensors it gets: "latents", "mask".

        Returns:
            Pictures, masks and report; the latter two are None without a subject.

        Raises:
            InputError: an argument cannot be used; the message says which and why.
            NotANumber: the latents are not finite any more.
        """
        # 1. Defaults and checks
        config = self.config
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        height, width = (self.side if side is None else side for side in (height, width))
        num_inference_steps = config.num_inference_steps if num_inference_steps is None else num_inference_steps
        guidance_scale = config.guidance_scale if guidance_scale is None else guidance_scale
        subject_guidance_scale = (
            config.subject_guidance_scale if subject_guidance_scale is None else subject_guidance_scale
        )
        mask_scope = config.mask_scope if mask_scope is None else mask_scope
        if not prompts or not all(isinstance(sentence, str) for sentence in prompts):
            raise InputError(f"prompt must be a sentence or a list of sentences, but is {prompt!r}")
        subject_images, subject_words = self._check_subject(subject_image, subject_word, len(prompts), mask)
        strengths = {"guidance_scale": guidance_scale, "subject_guidance_scale": subject_guidance_scale}
        self.check_numbers(
            height=height, width=width, num_inference_steps=num_inference_steps, mask_scope=mask_scope,
            num_images_per_prompt=num_images_per_prompt, token_ratio=token_ratio, eta=eta, **strengths,
        )  # fmt: skip
        samples = len(prompts) * num_images_per_prompt
        subject_scales = _scales(subject_scale, samples)
        _check_choice("mask_normalization", mask_normalization, NORMALIZATIONS)
        _check_choice("mask_mode", mask_mode, MASK_MODES)
        _check_choice("output_type", output_type, ("pil", "np", "pt", "latent"))
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        self._check_callback(callback_on_step_end_tensor_inputs)
        device, dtype = self._execution_device, self.unet.dtype
        self._interrupt = False

        # 2. The target word
        words = [
            find_word(sentence, word, self.tokenizer, occurrence=occurrence)
            for sentence, word in zip(prompts, subject_words, strict=bool(subject_words))
        ]

        # 3. Text
        text, negative = (
            _repeat_text(states, num_images_per_prompt, dtype) for states in self._encode_text(prompts, negative_prompt)
        )
        both = _concatenate(negative, text)

        # 4. Subject
        subject, portraits = None, list[Portrait]()
        grid = (height // self.vae_scale_factor, width // self.vae_scale_factor)
        if subject_images:
            columns = word_columns(words, text.states.shape[1]).repeat_interleave(num_images_per_prompt, dim=0)
            portraits = [examine(picture, self.side) for picture in subject_images]
            features, present = self._features(subject_images, [portrait.size for portrait in portraits])
            times = samples // len(subject_images)
            tokens = self.adapter.tokens(features.to(dtype)).repeat_interleave(times, dim=0)
            present = None if present is None else present.repeat_interleave(times, dim=0)
            frames = torch.tensor([portrait.frame for portrait in portraits]).repeat_interleave(times, dim=0)
            subject = _SubjectCall(
                views=_SubjectViews(tokens, self.adapter.keys_values(tokens), present, frames.to(device), text),
                columns=columns.to(device),
                given_mask=None if mask is None else _as_mask(mask, samples, grid, device),
                mask_mode=mask_mode,
                mask_scope=mask_scope,
                mask_normalization=mask_normalization,
                mask_binary=config.mask_binary if mask_binary is None else mask_binary,
                token_ratio=token_ratio,
                scales=torch.tensor(subject_scales, device=device),
                guidance_scale=guidance_scale,
                subject_guidance_scale=subject_guidance_scale,
            )

        # 5. Timesteps and first latents
        self._set_timesteps(num_inference_steps, device)
        self._num_timesteps = len(self.scheduler.timesteps)
        latents = self._first_latents(latents, generator, (samples, self.unet.config.in_channels, *grid), device, dtype)
        step_options = self.prepare_extra_step_kwargs(generator, eta)

        # 6. Denoise
        with attached(self.unet) as tap, self.progress_bar(total=len(self.scheduler.timesteps)) as bar:
            tap.latent_size, tap.text_cache, tap.watched = grid, {}, config.mask_layers
            for step, timestep in enumerate(self.scheduler.timesteps):
                if self._interrupt:
                    break
                noisy = self.scheduler.scale_model_input(latents, timestep)
                if subject is None:
                    predictions = self._predict_from_text(noisy, timestep, both, text, guidance_scale)
                    prediction = direct_guidance(*predictions, guidance_scale=guidance_scale)
                else:
                    prediction = self._predict_customized(tap, subject, noisy, timestep, both)
                latents = self.scheduler.step(prediction, timestep, latents, **step_options, return_dict=False)[0]
                latents = latents.to(dtype)
                if callback_on_step_end is not None:
                    known = {"latents": latents, "mask": subject.masks[-1] if subject else None}
                    wanted = {name: known[name] for name in callback_on_step_end_tensor_inputs}
                    latents = (callback_on_step_end(self, step, timestep, wanted) or {}).get("latents", latents)
                bar.update()

        # 7. Decode and report
        lower = "take lower guidance scales" + ("" if dtype == torch.float32 else f", or float32 instead of {dtype}")
        _check_computed(latents, "the latents", lower)
        output = RealCustomOutput(images=self._decode(latents, output_type))
        if subject is not None and subject.masks:
            output.masks = SubjectMasks(torch.stack(subject.masks))
            output.report = Report(
                words, [coverage(step).tolist() for step in subject.masks], subject.strengths, portraits,
                {name: (scale, config[name]) for name, scale in strengths.items()},
            )  # fmt: skip
        self.maybe_free_model_hooks()
        if not return_dict:  # diffusers' convention, which the annotation leaves out
            return (output.images, output.masks, output.report)  # type: ignore[return-value]
        return output

    def _check_subject(
        self,
        subject_image: Image.Image | Sequence[Image.Image] | None,
        subject_word: str | Sequence[str] | None,
        prompts: int,
        mask: object | None,
    ) -> tuple[list[Image.Image], list[str]]:
        """Return the subjects' pictures, one or as many as there are prompts, and each prompt's word."""
        if (subject_image is None) != (subject_word is None):
            given, absent = (
                ("subject_word", "subject_image") if subject_image is None else ("subject_image", "subject_word")
            )
            raise InputError(
                f"{given} was given without {absent}; a subject needs its picture and its word in the prompt"
            )
        if subject_image is None or subject_word is None:
            if mask is not None:
                raise InputError("mask was given without a subject; it says where the subject may act")
            return [], []
        images = [subject_image] if isinstance(subject_image, (Image.Image, str)) else list(subject_image)
        words = [subject_word] * prompts if isinstance(subject_word, str) else list(subject_word)
        for image in images:
            if not isinstance(image, Image.Image):
                raise InputError(f"subject_image must be a PIL picture, but is a {type(image).__name__}")
        if len(images) not in (1, prompts):
            raise InputError(f"subject_image is a list of {len(images)}, but there are {prompts} prompts")
        if len(words) != prompts:
            raise InputError(f"subject_word is a list of {len(words)}, but there are {prompts} prompts")
        if self.adapter is None:
            raise InputError("this model has no RealCustom adapter, so it can only make text-to-image pictures")
        return images, words

    def _check_layers(self, mask_layers: Sequence[str]) -> None:
        layers = cross_attention_layers(self.unet)
        if isinstance(mask_layers, str):
            raise InputError(f"mask_layers must be a list of beginnings of names, but is the word {mask_layers!r}")
        for beginning in mask_layers:
            if not any(name.startswith(beginning) for name in layers):
                raise InputError(f"no cross-attention layer begins with {beginning!r}; there are {', '.join(layers)}")

    def check_numbers(
        self,
        *,
        height: int,
        width: int,
        num_inference_steps: int,
        guidance_scale: float,
        subject_guidance_scale: float,
        mask_scope: float,
        token_ratio: float,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
    ) -> None:
        """Check arguments of a call, with the scheduler at hand, before anything is computed.

        Raises:
            InputError: one of them cannot be used.
        """
        factor = self.vae_scale_factor
        for name, side in (("height", height), ("width", width)):
            if not 0 < side <= _LARGEST_SIDE or side % factor:
                raise InputError(
                    f"{name} must be a positive multiple of {factor} pixels, {_LARGEST_SIDE} at the most, but is {side}"
                )
        counts = {"num_inference_steps": num_inference_steps, "num_images_per_prompt": num_images_per_prompt}
        for name, count in counts.items():
            if count < 1:
                raise InputError(f"{name} must be at least 1, but is {count}")
        if not 0 <= mask_scope <= 1:
            raise InputError(f"mask_scope must be a share from 0 to 1, but is {mask_scope}")
        if not 0 < token_ratio <= 1:
            raise InputError(f"token_ratio must be a share above 0 and up to 1, but is {token_ratio}")
        scales = {"guidance_scale": guidance_scale, "subject_guidance_scale": subject_guidance_scale, "eta": eta}
        _check_finite(scales)
        self._check_scheduler(num_inference_steps)

    def _check_scheduler(self, num_inference_steps: int) -> None:
        if not hasattr(self.scheduler, "alphas_cumprod"):
            raise InputError(
                f"{type(self.scheduler).__name__} has no discrete noise schedule, so it does not fit this model; "
                f"take DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler or another of their kind"
            )
        longest = self.scheduler.config.num_train_timesteps
        if num_inference_steps > longest:
            raise InputError(f"num_inference_steps must be at most {longest}, but is {num_inference_steps}")

    def _set_timesteps(self, num_inference_steps: int, device: torch.device) -> None:
        try:
            self.scheduler.set_timesteps(num_inference_steps, device=device)
        except (ValueError, IndexError) as error:  # PNDM, for one, needs some steps to start with
            raise InputError(
                f"{type(self.scheduler).__name__} cannot take num_inference_steps {num_inference_steps}: {error}"
            ) from error

    def _check_callback(self, tensor_inputs: Sequence[str]) -> None:
        unknown = sorted(set(tensor_inputs) - set(self._callback_tensor_inputs))
        if unknown:
            raise InputError(f"a callback can get {self._callback_tensor_inputs}, but not {unknown}")

    def _encode_text(
        self, prompts: Sequence[str], negative_prompt: str | Sequence[str] | None
    ) -> tuple[TextStates, TextStates]:
        """Return the states of the prompts and of as many negative prompts."""
        if negative_prompt is None or isinstance(negative_prompt, str):
            negatives = [negative_prompt or ""] * len(prompts)
        else:
            negatives = list(negative_prompt)
        if len(negatives) != len(prompts):
            raise InputError(f"negative_prompt has {len(negatives)} entries, but there are {len(prompts)} prompts")
        for sentence in (*prompts, *negatives):
            if lost := cut_off(sentence, self.tokenizer):
                logger.warning("the text encoder reads %d tokens; not read: %r", self.tokenizer.model_max_length, lost)
        positive, negative = (encode_prompts(many, self.tokenizer, self.text_encoder) for many in (prompts, negatives))
        return positive, negative

    @property
    def side(self) -> int:
        """Of the model's own pictures, and of what the encoder sees of a reference, in pixels."""
        return self.unet.config.sample_size * self.vae_scale_factor

    def _features(
        self, pictures: Sequence[Image.Image], sizes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor | None]:
        """Return the subjects' image features `[n, i, c_f]`: their own latents, in patches; and which are no padding.

        Args:
            pictures: of the subjects.
            sizes: width and height of each as it is seen, upright.
        """
        side = self.side
        pixels = self.image_processor.preprocess([fit_reference(picture, side) for picture in pictures])
        features = latent_features(to_latents(self.vae, pixels.to(self._execution_device)))
        if all(width == height for width, height in sizes):
            return features, None
        cells = round(features.shape[1] ** 0.5)
        present = [cells_within(fitted_box(size, side), side, cells) for size in sizes]
        return features, torch.from_numpy(np.stack(present)).to(features.device)

    def _first_latents(
        self,
        latents: Tensor | None,
        generator: torch.Generator | list[torch.Generator] | None,
        shape: tuple[int, ...],
        device: torch.device,
        dtype: torch.dtype,
    ) -> Tensor:
        if isinstance(generator, list) and len(generator) != shape[0]:
            raise InputError(f"generator is a list of {len(generator)}, but {shape[0]} pictures are to be made")
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        elif latents.shape != shape:
            raise InputError(f"latents must have the shape {shape}, but have {tuple(latents.shape)}")
        return latents.to(device, dtype) * self.scheduler.init_noise_sigma

    def prepare_extra_step_kwargs(self, generator: Any, eta: float) -> dict[str, Any]:
        """Return those of `eta` and `generator` that the scheduler's `step` takes."""
        taken = inspect.signature(self.scheduler.step).parameters
        return {name: value for name, value in (("eta", eta), ("generator", generator)) if name in taken}

    def _predict(self, noisy: Tensor, timestep: Tensor, text: TextStates) -> Tensor:
        return self.unet(noisy, timestep, text.states, encoder_attention_mask=text.keep, return_dict=False)[0]

    def _predict_from_text(
        self, noisy: Tensor, timestep: Tensor, both: TextStates, text: TextStates, guidance_scale: float
    ) -> tuple[Tensor, Tensor]:
        """Return the unconditional and the T2I prediction; both are T2I's where guidance gives the former no weight."""
        if guidance_scale == 1:
            from_text = self._predict(noisy, timestep, text)
            return from_text, from_text
        unconditional, from_text = self._predict(noisy.repeat(2, 1, 1, 1), timestep, both).chunk(2)
        return unconditional, from_text

    def _predict_customized(
        self, tap: AttentionTap, call: _SubjectCall, noisy: Tensor, timestep: Tensor, both: TextStates
    ) -> Tensor:
        """Return the guided prediction of one step (RC section 3.3): T2I finds the mask, TI2I paints the subject in it."""
        # T2I, together with the unconditional branch: text only, and where the word looks
        replaced = call.given_mask is not None and call.mask_mode == "replace"
        tap.word = None if replaced else call.columns
        unconditional, from_text = self._predict_from_text(noisy, timestep, both, call.views.text, call.guidance_scale)
        tap.word = None
        mask, frames = self._masks(tap, call)
        # TI2I, text and subject, for the pictures where it can differ
        from_both = from_text
        strengths: list[float | None] = [None] * len(noisy)
        rows = ((call.scales != 0) & mask.flatten(1).any(dim=1)).nonzero()[:, 0]
        if len(rows):
            painted, strengths = self._predict_subject(tap, call, noisy, timestep, mask, frames, rows)
            from_both = painted if len(rows) == len(noisy) else from_text.index_copy(0, rows, painted)
        call.masks.append(mask.cpu())
        call.strengths.append(strengths)
        scales = {"guidance_scale": call.guidance_scale, "subject_guidance_scale": call.subject_guidance_scale}
        return cascade_guidance(unconditional, from_text, from_both, **scales)

    def _masks(self, tap: AttentionTap, call: _SubjectCall) -> tuple[Tensor, Tensor]:
        """Return where the subjects may act, and their frames, from what T2I has recorded."""
        if call.given_mask is not None and call.mask_mode == "replace":
            return call.given_mask, frame_of(call.given_mask)
        relevance = aggregate(list(tap.maps.values()), normalization=call.mask_normalization, size=tap.latent_size)
        found = influence_scope(relevance, mask_scope=call.mask_scope, binary=call.mask_binary)
        framing = influence_scope(relevance, mask_scope=FRAME_SCOPE)
        if call.given_mask is not None:
            found, framing = (combine(one, call.given_mask, call.mask_mode) for one in (found, framing))
        return found, call.steady(frame_of(framing))

    def _predict_subject(
        self, tap: AttentionTap, call: _SubjectCall, noisy: Tensor, timestep: Tensor, mask: Tensor, frames: Tensor,
        rows: Tensor,
    ) -> tuple[Tensor, list[float | None]]:  # fmt: skip
        """Return the TI2I prediction of some of the pictures, and for all how strongly the subject acted."""
        views = call.part(rows)
        noisy, mask, frames, scales = (tensor[rows].to(noisy) for tensor in (noisy, mask, frames, call.scales))
        tap.subjects = [
            self.adapter.act(
                views.tokens, views.keys_values, views.text, noisy,
                alpha_at(self.scheduler.alphas_cumprod, timestep).to(noisy).expand(len(noisy)),
                token_ratio=call.token_ratio, mask=mask, scale=scales, present=views.present,
                positions=(
                    place_tokens(round(views.tokens.shape[1] ** 0.5), views.reference_frames.to(frames), frames)
                    if self.adapter.log_precisions
                    else None
                ),
            )
        ]  # fmt: skip
        tap.strengths = {}
        painted = self._predict(noisy, timestep, views.text)
        ratios = torch.stack([visual / textual for visual, textual in tap.strengths.values()]).mean(dim=0)
        tap.subjects, tap.strengths = (), None
        strengths: list[float | None] = [None] * len(call.scales)
        for row, ratio in zip(rows.tolist(), ratios.tolist(), strict=True):
            strengths[row] = ratio
        return painted, strengths

    def _decode(self, latents: Tensor, output_type: str) -> Any:
        if output_type == "latent":
            return latents
        pixels = to_pixels(self.vae, latents)
        _check_computed(pixels, "the decoded pixels", "take the autoencoder in float32")
        return self.image_processor.postprocess(pixels, output_type=output_type)


def _check_finite(numbers: Mapping[str, float]) -> None:
    for name, number in numbers.items():
        if not isinstance(number, (int, float)) or not abs(number) <= _LARGEST:
            raise InputError(f"{name} must be a number from -{_LARGEST:g} to {_LARGEST:g}, but is {number!r}")


def _check_computed(tensor: Tensor, what: str, remedy: str) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise NotANumber(f"{what} are no numbers any more; {remedy}")


def _scales(scale: float | Sequence[float], samples: int) -> list[float]:
    """Return `subject_scale` for each picture."""
    scales = [scale] * samples if isinstance(scale, (int, float)) else list(scale)
    if len(scales) != samples:
        raise InputError(f"subject_scale is a list of {len(scales)}, but {samples} pictures are to be made")
    for one in scales:
        _check_finite({"subject_scale": one})
    return [float(one) for one in scales]


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, but is {value!r}")


def _repeat_text(text: TextStates, times: int, dtype: torch.dtype) -> TextStates:
    states = text.states.to(dtype).repeat_interleave(times, dim=0)
    return TextStates(states, None if text.keep is None else text.keep.repeat_interleave(times, dim=0))


def _concatenate(one: TextStates, other: TextStates) -> TextStates:
    keep = None if one.keep is None or other.keep is None else torch.cat([one.keep, other.keep])
    return TextStates(torch.cat([one.states, other.states]), keep)


def _as_mask(mask: Any, samples: int, grid: tuple[int, int], device: torch.device) -> Tensor:
    """Return a mask of the caller's as `[samples, *grid]` float32."""
    if isinstance(mask, SubjectMasks):
        mask = mask.final
    if isinstance(mask, Image.Image):
        mask = torch.from_numpy(_grey_levels(mask))
    if isinstance(mask, np.ndarray):
        mask = torch.from_numpy(mask)
    if not isinstance(mask, Tensor):
        raise InputError(
            f"mask must be a picture, a tensor, an array or the masks of a run, but is a {type(mask).__name__}"
        )
    if mask.ndim not in (2, 3) or (mask.ndim == 3 and mask.shape[0] not in (1, samples)):
        raise InputError(f"mask must be [h, w] or [{samples}, h, w], but is {list(mask.shape)}")
    if not (float(mask.min()) >= 0 and float(mask.max()) <= 1):
        raise InputError(f"mask must lie between 0 and 1, but spans {float(mask.min()):.3g} to {float(mask.max()):.3g}")
    batch = (mask[None] if mask.ndim == 2 else mask).float()
    larger = batch.shape[1] > grid[0] or batch.shape[2] > grid[1]
    fitted = area_mask(batch, grid) if larger else resize_mask(batch, grid)
    return fitted.expand(samples, -1, -1).to(device)


def _grey_levels(picture: Image.Image) -> np.ndarray:
    """Return how bright a picture is, `[h, w]` float32 in [0, 1]; what is transparent is black."""
    upright = as_seen(picture)
    opaque = Image.new("LA", upright.size, 0)
    opaque.alpha_composite(upright.convert("LA"))
    return np.asarray(opaque.getchannel("L"), np.float32) / 255
