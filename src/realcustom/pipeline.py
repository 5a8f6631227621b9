"""Subject-driven text-to-image: the one denoising loop of RealCustom.

Every step runs two branches from the same latent: T2I, text only, says where the target word looks; TI2I, text and
subject, paints the subject there (RC section 3.3).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

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

from realcustom.adapter import RealCustomAdapter, defaults_of
from realcustom.attention import attached, attention_grid, cross_attention_layers
from realcustom.branches import Branches, encoder_layers
from realcustom.checks import (
    check_choice,
    check_least,
    check_numbers,
    check_positive_share,
    is_number,
    is_whole,
    sentences,
)
from realcustom.customization import Customization
from realcustom.errors import OUT_OF_MEMORY, InputError, NotANumber, OutOfMemory, did_you_mean, in_one_line
from realcustom.latents import Autoencoder, downscaling, to_pixels
from realcustom.loading import load_components, load_part, resolve
from realcustom.masks import (
    MASK_MODES,
    MaskMode,
    Normalization,
    resize_mask,
    resize_mask_by_height,
)
from realcustom.prompts import (
    TextStates,
    cut_off,
    encode_prompts,
    encode_prompts_twice,
    find_words,
    word_columns,
)
from realcustom.report import RealCustomOutput, Report, SubjectMasks, SubjectReport
from realcustom.schedule import alpha_at, clean_latents, official_scheduler
from realcustom.settings import Form, FrozenAfter, Guidance, MaskSettings, MaskSource, RunSettings, Shortcuts
from realcustom.subject import Likeness, Subject
from realcustom.subject_encoder import SubjectEncoder

logger = logging.getLogger(__name__)

StepCallback = Callable[["RealCustomPipeline", int, int, dict[str, Any]], dict[str, Any]]


_LARGEST_SIDE = 8192
"""Of a picture, in pixels."""

_OF_HUB = ("revision", "token", "local_files_only", "cache_dir")

_OPTIONAL = [
    "adapter", "text_encoder_2", "tokenizer_2", "image_encoder", "image_encoder_2", "safety_checker",
    "feature_extractor",
]  # fmt: skip


@contextmanager
def _memory_told() -> Iterator[None]:
    """Turn an out-of-memory error into advice on what needs less."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(told in str(error) for told in OUT_OF_MEMORY):
            raise
        raise OutOfMemory(
            f"there is not enough memory on the device ({in_one_line(error)}); in the order of what they cost, take: "
            "pipe.vae.enable_tiling(), dtype=torch.float16 (bfloat16 on a CPU), fewer pictures at once, "
            "pipe.enable_model_cpu_offload(), a smaller width and height"
        ) from error


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
        text_encoder_2: the second one of Stable Diffusion XL.
        tokenizer_2: its tokenizer.
        image_encoder: what sees the subject: a CLIP encoder, or with `image_encoder_2` SigLIP; the model's own autoencoder
            if there is none.
        image_encoder_2: DINOv2 with registers, for RC++.
        safety_checker: of a Stable Diffusion 1.5 base; what it flags comes back black, and `output.nsfw_content_detected`
            says so.
        feature_extractor: of the safety checker.
        num_inference_steps: this model's default; the papers' if not given, like the next ones.
        guidance_scale: this model's default w_t.
        subject_guidance_scale: this model's default w_i.
        guidance: this model's default form of guidance.
        mask_scope: this model's default gamma_scope.
        final_mask_scope: this model's default of what it is narrowed to.
        token_ratio: this model's default gamma_num.
        mask_normalization: this model's default.
        mask_frozen_after: this model's default.
        mask_binary: whether this model by default gives the whole scope the weight 1.
        mask_yields: whether this model's masks by default leave cells to words that come after the subject's.
        force_zeros_for_empty_prompt: SDXL's: without a negative prompt the unconditional branch is told zeros.
        mask_layers: beginnings of the names of the cross-attention layers whose attention makes the mask; all if not given,
            as in RC. A small model's noun may only be found in some of them.
    """

    scheduler: SchedulerMixin

    model_cpu_offload_seq = "text_encoder->text_encoder_2->image_encoder->image_encoder_2->unet->vae"
    _exclude_from_cpu_offload = ["adapter"]  # noqa: RUF012  (small, and called in parts, which no hook sees)
    _optional_components = _OPTIONAL
    _callback_tensor_inputs = ["latents", "mask"]  # noqa: RUF012

    def __init__(
        self,
        vae: Autoencoder,
        text_encoder: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        adapter: RealCustomAdapter | None = None,
        text_encoder_2: PreTrainedModel | None = None,
        tokenizer_2: PreTrainedTokenizerBase | None = None,
        image_encoder: PreTrainedModel | None = None,
        image_encoder_2: PreTrainedModel | None = None,
        safety_checker: PreTrainedModel | None = None,
        feature_extractor: Any = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        subject_guidance_scale: float | None = None,
        guidance: str | None = None,  # diffusers cannot check a Literal
        mask_scope: float | None = None,
        final_mask_scope: float | None = None,
        token_ratio: float | None = None,
        mask_normalization: str | None = None,
        mask_frozen_after: int | str | None = None,  # "never", or after how many
        mask_binary: bool | None = None,
        mask_yields: bool | None = None,
        force_zeros_for_empty_prompt: bool = True,
        mask_layers: list[str] = [],  # noqa: B006  (diffusers reads this annotation and default; it is never changed)
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler, adapter=adapter,
            text_encoder_2=text_encoder_2, tokenizer_2=tokenizer_2, image_encoder=image_encoder,
            image_encoder_2=image_encoder_2, safety_checker=safety_checker, feature_extractor=feature_extractor,
        )  # fmt: skip
        # What is not given stays open: it follows from the adapter, and another one may be put in its place.
        self.register_to_config(
            num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
            subject_guidance_scale=subject_guidance_scale, guidance=guidance, mask_scope=mask_scope,
            final_mask_scope=final_mask_scope, token_ratio=token_ratio, mask_normalization=mask_normalization,
            mask_frozen_after=mask_frozen_after, mask_binary=mask_binary, mask_yields=mask_yields,
            force_zeros_for_empty_prompt=force_zeros_for_empty_prompt, mask_layers=list(mask_layers),
        )  # fmt: skip
        check_layers(unet, mask_layers)
        _check_base(unet)
        self._interrupt = False
        if adapter is not None:
            check_fit(adapter, unet)
        self.vae_scale_factor = downscaling(vae)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> RealCustomPipeline:
        """Return a pipeline with every tensor loaded from safetensors, strictly.

        Args:
            pretrained_model_name_or_path: "stickers" for the embedded model, a folder in diffusers' layout, or a hub id,
                which is fetched as a snapshot and loaded locally.
            **kwargs: `adapter`, a RealCustom part for a base that has none, as an object or as the name of its folder or hub
                id; other components that replace the model's own; the model's defaults (`mask_scope` and the like);
                `dtype`; `variant` of the weights, where the model has it; `revision`, `token`, `cache_dir` and
                `local_files_only` for the hub; `device_map` and `max_memory`.

        Raises:
            InputError: there is no such model, or no such argument.
            CheckpointMismatch: a file does not hold the tensors that its model needs.
        """
        older = kwargs.pop("torch_dtype", None)
        dtype = _as_dtype(kwargs.pop("dtype", None) or older or torch.float32)
        own = set(inspect.signature(cls.__init__).parameters) - {"self"}
        for name in kwargs.keys() - own - {*_OF_HUB, "variant", "device_map", "max_memory"}:
            raise InputError(f"from_pretrained takes no {name!r}.{did_you_mean(name, sorted(own))}")
        hub = {name: kwargs.pop(name) for name in _OF_HUB if name in kwargs}
        variant = kwargs.pop("variant", None)
        folder = resolve(pretrained_model_name_or_path, variant=variant, **hub)
        given = {name: kwargs.pop(name) for name in cls._component_names() if name in kwargs}
        if isinstance(given.get("adapter"), (str, Path)):
            part = load_part(given.pop("adapter"), dtype, **{key: hub[key] for key in hub if key != "revision"})
            given = {**part, **given}
        components = load_components(folder, cls._component_names(), given, dtype, variant)
        for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler"):
            if name in given and given[name] is None:
                raise InputError(f"{name} must be a component, but is None")
        try:
            return super().from_pretrained(folder, local_files_only=True, **components, **kwargs)
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            raise InputError(f"{folder} is no whole model: {error}") from error

    @classmethod
    def _component_names(cls) -> list[str]:
        return ["vae", "text_encoder", "tokenizer", "unet", "scheduler", *_OPTIONAL]

    @property
    def num_timesteps(self) -> int:
        """How many evaluations the call at hand makes of each branch; read by diffusers' callbacks."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether the call at hand is to stop after this step."""
        return self._interrupt

    @torch.no_grad()
    @_memory_told()
    def __call__(
        self,
        prompt: str | Sequence[str],
        subject_image: Likeness | Sequence[Likeness] | None = None,
        subject_word: str | Sequence[str] | None = None,
        *,
        subjects: Sequence[Subject] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        subject_guidance_scale: float | None = None,
        guidance: Form | None = None,
        guidance_rescale: float = 0.0,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        occurrence: int | None = None,
        mask: Tensor | np.ndarray | Image.Image | SubjectMasks | None = None,
        mask_mode: MaskMode = "replace",
        mask_scope: float | None = None,
        final_mask_scope: float | None = None,
        mask_normalization: Normalization | None = None,
        mask_binary: bool | None = None,
        mask_yields: bool | None = None,
        mask_threshold: bool = False,
        mask_refined: bool = False,
        mask_frozen_after: FrozenAfter | None = None,
        token_ratio: float | None = None,
        subject_scale: float | Sequence[float] = 1.0,
        mask_source: MaskSource = "text",
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        cache_interval: int = 1,
        compat: Literal["official"] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> RealCustomOutput:
        """Make pictures.

        Args:
            prompt: one sentence or several.
            subject_image: the one picture of the subject, or what was saved of it, or a list with one for each prompt; None
                makes plain text-to-image pictures.
            subject_word: the real word (or phrase) of every prompt that is narrowed to the subject, or a list with one
                for each prompt.
            subjects: several subjects in the place of these two, each with its word in every prompt, its pictures, mask,
                scale and time. Where their masks meet, each cell is shared out (`masks.exclusive`).
            height: of the pictures in pixels, a multiple of the autoencoder's factor; the model's own size if not given.
            width: likewise.
            num_inference_steps: of the scheduler; the model's default if not given, like the next two.
            guidance_scale: w_t, how strongly the text is followed.
            subject_guidance_scale: w_i, how strongly the subject is followed.
            guidance: "cascade" (RC 13) or "direct", from the negative prediction straight to the subject's (RC++), for which
                T2I need not be run once the mask is frozen and `guidance_scale` alone counts; the model's default if not given.
            guidance_rescale: how far the spread of the guided prediction is brought back to that of the subject's, in [0, 1].
            negative_prompt: what the unconditional branch is told; if not given the empty sentence, or zeros where the
                model has it so (SDXL).
            num_images_per_prompt: pictures for each prompt, next to each other in the result.
            eta: of DDIM; other schedulers do without.
            generator: of the first noise, or a list with one for each picture.
            latents: the first noise `[b, c, height / f, width / f]` instead, of unit variance.
            occurrence: which one, if a prompt says the word more than once; from 1.
            mask: where the subject may act: `[h, w]` or `[b, h, w]` in [0, 1] of any size, a grey picture, whose
                transparent parts count as black, or the masks of an earlier run, of which the final ones are taken.
            mask_mode: "replace" takes the mask instead of the word's attention, "intersect" and "union" take the smaller
                or larger of the two in each cell.
            mask_scope: gamma_scope, the share of the grid that the word's attention is narrowed to (RC 11);
                in the second half of the run `final_mask_scope`, if that is smaller.
            final_mask_scope: what that share is narrowed to in the second half of the run, where it is smaller; the model's
                default if not given, 1 narrows no further.
            mask_normalization: how the attention is scaled, see `masks.aggregate`; RC's is "max", the model's default if not
                given.
            mask_binary: give the whole scope the weight 1 (an ablation of the paper); the model's default if not given.
            mask_yields: leave cells of the scope to words after the subject's that stand out far more there, see
                `masks.yielding`, so that what a subject wears is not painted over; the model's default if not given.
            mask_threshold: take 1 minus the scope as the lowest relevance instead of keeping a share of the grid.
            mask_refined: spread the relevance along the UNet's self-attention (RC++).
            mask_frozen_after: keep the mask of this evaluation, from 1, for all later ones (RC++), or "never"; the model's
                default if not given.
            token_ratio: gamma_num, the share of the subject's tokens that act (RC 10), in (0, 1]; the model's default if
                not given.
            subject_scale: multiplies the subject's contribution to every layer, or a list with one for each picture;
                0 gives the plain picture. With the same first noise twice, [1, 0] makes a picture and its text-only twin.
            mask_source: which call gives the mask, see `Shortcuts`; "text" is exact, the others are faster.
            guidance_start: share of the run before which the unconditional branch is not called, see `Shortcuts`.
            guidance_end: share of the run from which on it is not called any more.
            cache_interval: how often the deep blocks of the UNet are called, see `Shortcuts`; 1 is always.
            compat: "official" runs the loop as the authors published it for Stable Diffusion XL, defects included: the negative
                branch sees a black picture under the same mask, width and height change places in the time ids, the pooled
                text is not projected, the reference is squashed to a square, masks have half the latent's sides, steps are
                theirs, and the last step's clean picture is decoded. The scheduler must be DPMSolverSinglestepScheduler or
                DDIMScheduler.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: False returns the plain tuple (images, nsfw_content_detected, masks, report).
            callback_on_step_end: called as `f(pipeline, step, timestep, tensors)` after every step; the "latents" that it
                returns replace the old ones. It may set `pipeline._interrupt` to stop.
            callback_on_step_end_tensor_inputs: which tensors it gets: "latents", "mask".

        Returns:
            Pictures, masks and report; the latter two are None without a subject.

        Raises:
            InputError: an argument cannot be used; the message says which and why.
            NotANumber: the latents are not finite any more.
            OutOfMemory: the device has too little memory; the message says what needs less. The pipeline can be used on.
        """
        # 1. Defaults and checks
        prompts = sentences("prompt", prompt)
        height, width = (self.side if side is None else side for side in (height, width))
        cast = self._cast(
            len(prompts), subjects, subject_image=subject_image, subject_word=subject_word, occurrence=occurrence, mask=mask,
            mask_mode=mask_mode,
        )  # fmt: skip
        run = self.settled(
            height=height, width=width, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
            subject_guidance_scale=subject_guidance_scale, guidance=guidance or ("direct" if compat else None),
            guidance_rescale=guidance_rescale, mask_scope=mask_scope, final_mask_scope=final_mask_scope,
            mask_normalization=mask_normalization, mask_binary=mask_binary, mask_yields=mask_yields,
            mask_threshold=mask_threshold, mask_refined=mask_refined, mask_frozen_after=mask_frozen_after,
            token_ratio=token_ratio, mask_source=mask_source, guidance_start=guidance_start, guidance_end=guidance_end,
            cache_interval=cache_interval,
        )  # fmt: skip
        self._check_compat(compat, run)
        check_least("num_images_per_prompt", num_images_per_prompt, 1)
        check_numbers({"eta": eta})
        check_choice("output_type", output_type, ("pil", "np", "pt", "latent"))
        samples = len(prompts) * num_images_per_prompt
        subject_scales, generator = _scales(subject_scale, samples), _checked_generators(generator, samples)
        callback_on_step_end_tensor_inputs = self._check_callback(
            callback_on_step_end, callback_on_step_end_tensor_inputs
        )
        device, dtype = self._execution_device, self.unet.dtype
        self._interrupt = False

        # 2. The target words
        said_of = [[(one.word, one.occurrence) for one in role] for role in cast]
        words = find_words(prompts, said_of, self.tokenizer)

        # 3. Text
        text, negative = (
            states.repeat(num_images_per_prompt, dtype)
            for states in self._encode_text(prompts, negative_prompt, (height, width), compat)
        )

        # 4. Subjects
        grid = (height // self.vae_scale_factor, width // self.vae_scale_factor)
        mask_grid = (grid[0] // 2, grid[1] // 2) if compat else attention_grid(self.unet, grid)
        portraits, actors = [], []
        every = word_columns(prompts, words, self.tokenizer, text.states.shape[1], later=run.masks.mask_yields)
        encoder = self.subject_encoder
        for role, columns in zip(cast, every, strict=True):
            scales = torch.tensor([one.scale for one in role]).repeat_interleave(num_images_per_prompt)
            actor, seen = encoder.actor(
                self.adapter, role, columns, scales * torch.tensor(subject_scales), mask_grid, device, dtype,
                squashed=bool(compat),
            )  # fmt: skip
            actors.append(actor)
            portraits.append(seen)
        black = None
        if compat and cast:
            picture = Image.new("RGB", (1, 1))
            nothing = encoder.reference(
                self.adapter, [picture], [encoder.examine(picture)], device, dtype, squashed=True
            )
            black = [[nothing.repeated(samples)]] * len(cast)

        with (
            attached(self.unet, self_attention=run.masks.mask_refined) as tap,
            self._timesteps(run.num_inference_steps, device, compat),
        ):
            # 5. First latents
            shape = (samples, self.unet.config.in_channels, *grid)
            latents = self._first_latents(latents, generator, shape, device, dtype)

            # 6. Denoise
            tap.latent_size, tap.text_cache = grid, {}
            tap.spread_grid = mask_grid if run.masks.mask_refined else None
            tap.resize = resize_mask_by_height if compat else resize_mask
            customization = None
            if actors:
                customization = Customization(
                    self.adapter, tap, text, actors, mask_grid, self._num_timesteps, run.masks, run.token_ratio
                )
            branches = Branches(
                self.unet, self.scheduler.alphas_cumprod, text, negative, run.guidance, self._num_timesteps, customization,
                black, run.shortcuts,
            )  # fmt: skip
            latents = self.denoise(
                latents, branches,
                step_options=self.prepare_extra_step_kwargs(generator, eta), decode_clean=compat is not None,
                callback_on_step_end=callback_on_step_end,
                callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            )  # fmt: skip

            # 7. Decode
            lower = "take lower guidance scales" + (
                "" if dtype == torch.float32 else f", or float32 instead of {dtype}"
            )
            _check_computed(latents, "the latents", lower)
            images, flagged = self._decode(latents, output_type)

        # 8. Report
        masks = report = None
        if customization is not None and customization.masks:
            masks = SubjectMasks(torch.stack(customization.masks))
            strengths = {"guidance_scale": run.guidance.scale, "subject_guidance_scale": run.guidance.subject_scale}
            usual = self.defaults
            guidance_told = {name: (float(scale), float(usual[name])) for name, scale in strengths.items()}
            report = Report(
                [
                    SubjectReport(
                        said,
                        masks.of(number).coverage.tolist(),
                        [step[number] for step in customization.strengths],
                        seen,
                        [step[number].tolist() for step in customization.overlaps],
                    )
                    for number, (said, seen) in enumerate(zip(words, portraits, strict=True))
                ],
                guidance_told,
                ("subject_guidance_scale",) if run.guidance.form == "direct" else (),
            )
        self.maybe_free_model_hooks()
        if not return_dict:  # diffusers' convention, which the annotation leaves out
            return (images, flagged, masks, report)  # type: ignore[return-value]
        return RealCustomOutput(images, flagged, masks, report)

    @torch.no_grad()
    def denoise(
        self,
        latents: Tensor,
        branches: Branches,
        *,
        step_options: Mapping[str, Any] | None = None,
        decode_clean: bool = False,
        callback_on_step_end: StepCallback | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Tensor:
        """Return the latents of the pictures, `[b, c, h, w]`, from the first noise, by the timesteps that the scheduler has.

        Args:
            latents: the first noise, as the scheduler wants it.
            branches: the UNet's, its tap attached to it; the customization's, if there is one.
            step_options: what else the scheduler's steps are told.
            decode_clean: return the clean latents that the last prediction means instead of what the scheduler steps to.
            callback_on_step_end: see `__call__`.
            callback_on_step_end_tensor_inputs: see `__call__`.
        """
        customization, dtype, clean = branches.customization, latents.dtype, latents
        with self.progress_bar(total=len(self.scheduler.timesteps)) as bar:
            for step, timestep in enumerate(self.scheduler.timesteps):
                if self._interrupt:
                    break
                noisy = self.scheduler.scale_model_input(latents, timestep)
                prediction = branches.predict(noisy, timestep)
                if decode_clean:
                    alpha = alpha_at(self.scheduler.alphas_cumprod, timestep)
                    clean = clean_latents(latents, prediction, alpha, self.scheduler.config.prediction_type)
                latents = self.scheduler.step(prediction, timestep, latents, **step_options or {}, return_dict=False)[0]
                latents = latents.to(dtype)
                if callback_on_step_end is not None:
                    mask = customization.masks[-1].amax(dim=0) if customization and customization.masks else None
                    known = {"latents": latents, "mask": mask}
                    wanted = {name: known[name] for name in callback_on_step_end_tensor_inputs}
                    latents = _given_back(callback_on_step_end(self, step, timestep, wanted), latents)
                bar.update()
        return clean if decode_clean else latents

    @property
    def defaults(self) -> dict[str, Any]:
        """How this model is run unless a call says otherwise: as it says itself, else as the paper of its adapter has it."""
        usual = defaults_of(self.adapter)
        return usual | {name: value for name in usual if (value := self.config[name]) is not None}

    def settled(
        self,
        *,
        height: int,
        width: int,
        guidance_rescale: float = 0.0,
        mask_threshold: bool = False,
        mask_refined: bool = False,
        mask_source: MaskSource = "text",
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        cache_interval: int = 1,
        **given: Any,
    ) -> RunSettings:
        """Return how a call is run, by its arguments and, where one is None or not among `given`, by this model's defaults.

        Raises:
            InputError: one cannot be used, with the scheduler at hand, or contradicts another one.
        """
        if unknown := given.keys() - self.defaults.keys():
            raise TypeError(f"settled takes no {', '.join(sorted(unknown))}")
        own = self.defaults | {name: value for name, value in given.items() if value is not None}
        factor = self.vae_scale_factor
        for name, side in (("height", height), ("width", width)):
            if not is_whole(side) or not 0 < side <= _LARGEST_SIDE or side % factor:
                raise InputError(
                    f"{name} must be a positive multiple of {factor} pixels, {_LARGEST_SIDE} at the most, but is {side}"
                )
        check_least("num_inference_steps", own["num_inference_steps"], 1)
        check_positive_share("token_ratio", own["token_ratio"])
        self._check_scheduler(own["num_inference_steps"])
        guidance = Guidance(own["guidance"], own["guidance_scale"], own["subject_guidance_scale"], guidance_rescale)
        if mask_source in ("encoder", "generation") and guidance.form != "direct":
            raise InputError(
                f"mask_source is {mask_source!r}, which does without the prediction of the text branch, but guidance is "
                f"{guidance.form!r}, which needs it; take direct guidance, or the mask source text or previous"
            )
        layers = self.config.mask_layers
        if mask_source == "encoder":
            layers = encoder_layers(self.unet, layers)
        masks = MaskSettings(
            **{name: own[name] for name in own.keys() & {one.name for one in fields(MaskSettings)}},
            mask_threshold=mask_threshold, mask_refined=mask_refined, mask_layers=tuple(layers),
        )  # fmt: skip
        shortcuts = Shortcuts(mask_source, guidance_start, guidance_end, cache_interval)
        return RunSettings(own["num_inference_steps"], guidance, masks, shortcuts, own["token_ratio"])

    def _cast(
        self,
        prompts: int,
        subjects: Sequence[Subject] | None,
        *,
        subject_image: Likeness | Sequence[Likeness] | None,
        subject_word: str | Sequence[str] | None,
        occurrence: int | None,
        mask: Any,
        mask_mode: MaskMode,
    ) -> list[list[Subject]]:
        """Return for each subject who plays it under each prompt: the same one, or one each."""
        short = {"subject_image": subject_image, "subject_word": subject_word, "occurrence": occurrence, "mask": mask}
        if subjects is not None:
            for name, given in {**short, "mask_mode": None if mask_mode == "replace" else mask_mode}.items():
                if given is not None:
                    raise InputError(f"{name} was given beside subjects, each of which says it itself; leave it out")
            listed = isinstance(subjects, (list, tuple)) and all(isinstance(one, Subject) for one in subjects)
            if not listed or not subjects:
                raise InputError(f"subjects must be a list of realcustom.Subject, at least one, but is {subjects!r}")
            cast = [[one] * prompts for one in subjects]
        else:
            cast = _cast_of_one(prompts, **short, mask_mode=mask_mode)
        if cast and self.adapter is None:
            raise InputError("this model has no RealCustom adapter, so it can only make text-to-image pictures")
        if cast and self.adapter.dtype != self.unet.dtype:
            raise InputError(
                f"the adapter has numbers of type {self.adapter.dtype} and the UNet of {self.unet.dtype}; move the whole "
                f"pipeline with pipe.to(dtype=...)"
            )
        return cast

    def _check_compat(self, compat: str | None, run: RunSettings) -> None:
        if compat is None:
            return
        check_choice("compat", compat, ("official",))
        if self.text_encoder_2 is None:
            raise InputError("compat='official' is for Stable Diffusion XL, and this base has one text encoder")
        if run.guidance.form != "direct" or run.shortcuts.mask_source != "text":
            raise InputError(
                "compat='official' runs the authors' loop, whose guidance is direct and whose mask_source is text, but "
                f"{run.guidance.form} and {run.shortcuts.mask_source} were asked for; leave them out"
            )
        if run.masks.mask_refined and run.masks.mask_normalization == "none":
            raise InputError(
                "compat='official' runs the authors' loop, which refines no mask with mask_normalization 'none'; leave "
                "mask_refined out"
            )

    def _check_scheduler(self, num_inference_steps: int) -> None:
        if not hasattr(self.scheduler, "alphas_cumprod"):
            raise InputError(
                f"{type(self.scheduler).__name__} has no discrete noise schedule, so it does not fit this model; "
                f"take DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler or another of their kind"
            )
        longest = self.scheduler.config.num_train_timesteps
        if num_inference_steps > longest:
            raise InputError(f"num_inference_steps must be at most {longest}, but is {num_inference_steps}")

    @contextmanager
    def _timesteps(self, num_inference_steps: int, device: torch.device, compat: str | None) -> Iterator[None]:
        """Set the timesteps of a call; inside the `with` block the scheduler is the authors' if that is asked for."""
        own = self.scheduler
        if compat:
            self.scheduler = official_scheduler(own, num_inference_steps, device)
        else:
            self._set_timesteps(num_inference_steps, device)
        self._num_timesteps = len(self.scheduler.timesteps)
        try:
            yield
        finally:
            self.scheduler = own

    def _set_timesteps(self, num_inference_steps: int, device: torch.device) -> None:
        try:
            self.scheduler.set_timesteps(num_inference_steps, device=device)
        except (ValueError, IndexError) as error:  # PNDM, for one, needs some steps to start with
            raise InputError(
                f"{type(self.scheduler).__name__} cannot take num_inference_steps {num_inference_steps}: {error}"
            ) from error

    def _check_callback(self, callback: Any, tensor_inputs: Any) -> Sequence[str]:
        """Return the names of the tensors that a callback gets; its own if it is one of diffusers'."""
        if callback is not None and not callable(callback):
            raise InputError(f"callback_on_step_end must be a function, but is {callback!r}")
        if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
            tensor_inputs = callback.tensor_inputs
        listed = isinstance(tensor_inputs, (list, tuple))
        unknown = sorted(set(tensor_inputs) - set(self._callback_tensor_inputs)) if listed else tensor_inputs
        if unknown or not listed:
            raise InputError(f"a callback can get {self._callback_tensor_inputs}, but not {unknown!r}")
        return tensor_inputs

    def _encode_text(
        self,
        prompts: Sequence[str],
        negative_prompt: str | Sequence[str] | None,
        size: tuple[int, int],
        compat: str | None,
    ) -> tuple[TextStates, TextStates]:
        """Return the states of the prompts and of as many negative prompts."""
        if negative_prompt is None or isinstance(negative_prompt, str):
            negatives = [negative_prompt or ""] * len(prompts)
        else:
            negatives = sentences("negative_prompt", negative_prompt)
        if len(negatives) != len(prompts):
            raise InputError(f"negative_prompt has {len(negatives)} entries, but there are {len(prompts)} prompts")
        for sentence in (*prompts, *negatives):
            if lost := cut_off(sentence, self.tokenizer):
                logger.warning("the text encoder reads %d tokens; not read: %r", self.tokenizer.model_max_length, lost)
        positive, negative = (self.text_states(many, size, compat=compat) for many in (prompts, negatives))
        if negative_prompt is None and self.zeros_for_empty_prompt and not compat:
            pooled = torch.zeros_like(negative.added["text_embeds"])
            negative = TextStates(torch.zeros_like(negative.states), None, {**negative.added, "text_embeds": pooled})
        return positive, negative

    @torch.no_grad()
    def text_states(
        self, prompts: Sequence[str], size: tuple[int, int], *, compat: str | None = None, shortest: bool = False
    ) -> TextStates:
        """Return what the UNet is told of prompts.

        Args:
            prompts: sentences.
            size: height and width of the pictures, which SDXL is told.
            compat: see `__call__`.
            shortest: see `encode_prompts`; SDXL's encoders always read all tokens.
        """
        if self.text_encoder_2 is None:
            return encode_prompts(
                prompts, self.tokenizer, self.text_encoder, shortest=shortest, device=self._execution_device
            )
        encoders = ((self.tokenizer, self.tokenizer_2), (self.text_encoder, self.text_encoder_2))
        states = encode_prompts_twice(prompts, *encoders, projected=not compat, device=self._execution_device)
        # The authors tell the UNet width and height the other way round.
        height, width = reversed(size) if compat else size
        time_ids = torch.tensor([[height, width, 0, 0, height, width]], device=states.states.device)
        return replace(states, added={**states.added, "time_ids": time_ids.expand(len(prompts), -1)})

    @property
    def zeros_for_empty_prompt(self) -> bool:
        """Whether the unconditional branch is told zeros without a negative prompt, and not the empty sentence: SDXL's way."""
        return self.text_encoder_2 is not None and bool(self.config.force_zeros_for_empty_prompt)

    @property
    def own_settings(self) -> dict[str, Any]:
        """What the model says of how it is run: the constructor's arguments beside its parts."""
        return {
            name: value
            for name, value in self.config.items()
            if name not in self.components and not name.startswith("_")
        }

    @property
    def side(self) -> int:
        """Of the model's own pictures, in pixels."""
        return side_of(self)

    @property
    def subject_encoder(self) -> SubjectEncoder:
        """What sees the subject."""
        return SubjectEncoder(self.vae, self.side, self.image_encoder, self.image_encoder_2)

    def _first_latents(
        self,
        latents: Tensor | None,
        generator: torch.Generator | list[torch.Generator] | None,
        shape: tuple[int, ...],
        device: torch.device,
        dtype: torch.dtype,
    ) -> Tensor:
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        elif not isinstance(latents, Tensor) or latents.shape != shape:
            told = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
            raise InputError(f"latents must be a tensor of the shape {shape}, but are {told}")
        return latents.to(device, dtype) * self.scheduler.init_noise_sigma

    def prepare_extra_step_kwargs(self, generator: Any, eta: float) -> dict[str, Any]:
        """Return those of `eta` and `generator` that the scheduler's `step` takes."""
        taken = inspect.signature(self.scheduler.step).parameters
        return {name: value for name, value in (("eta", eta), ("generator", generator)) if name in taken}

    def _decode(self, latents: Tensor, output_type: str) -> tuple[Any, list[bool] | None]:
        """Return the pictures, and of each whether the base's safety checker flagged it; None where there is none."""
        if output_type == "latent":
            return latents, None
        pixels = to_pixels(self.vae, latents)
        _check_computed(pixels, "the decoded pixels", "take the autoencoder in float32")
        flagged = None
        if self.safety_checker is not None:
            pictures = self.image_processor.postprocess(pixels, output_type="pil")
            seen = self.feature_extractor(pictures, return_tensors="pt").pixel_values.to(latents)
            pixels, flagged = self.safety_checker(images=pixels, clip_input=seen)
        lit = [not dark for dark in flagged or [False] * len(pixels)]  # the checker's zeros are black as they are
        return self.image_processor.postprocess(pixels, output_type=output_type, do_denormalize=lit), flagged


def _as_dtype(dtype: Any) -> torch.dtype:
    """Return one of torch's types of numbers, which may be told by its name."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise InputError(f"dtype must be one of torch's floating point types, such as torch.bfloat16, but is {dtype!r}")
    return found


def _check_computed(tensor: Tensor, what: str, remedy: str) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise NotANumber(f"{what} are not finite any more; {remedy}")


def _cast_of_one(
    prompts: int,
    *,
    subject_image: Any,
    subject_word: Any,
    occurrence: int | None,
    mask: Any,
    mask_mode: MaskMode,
) -> list[list[Subject]]:
    """Return the one subject of a call, one player for each prompt; nobody if there is none."""
    if (subject_image is None) != (subject_word is None):
        given, absent = (
            ("subject_word", "subject_image") if subject_image is None else ("subject_image", "subject_word")
        )
        raise InputError(f"{given} was given without {absent}; a subject needs its picture and its word in the prompt")
    if subject_image is None:
        if mask is not None:
            raise InputError("mask was given without a subject; it says where the subject may act")
        if occurrence is not None:
            raise InputError(
                "occurrence was given without a subject; it says which of its words in the prompt is meant"
            )
        check_choice("mask_mode", mask_mode, MASK_MODES)
        if mask_mode != "replace":
            raise InputError(f"mask_mode {mask_mode!r} was given without mask, which it is about")
        return []
    images = list(subject_image) if isinstance(subject_image, (list, tuple)) else [subject_image]
    words = [subject_word] * prompts if isinstance(subject_word, str) else sentences("subject_word", subject_word)
    if len(images) not in (1, prompts):
        raise InputError(
            f"subject_image is a list of {len(images)} pictures, one for each prompt, but the number of prompts is {prompts}; "
            "several pictures of one subject are told by subjects=[Subject([picture, picture], word)]"
        )
    if len(words) != prompts:
        raise InputError(f"subject_word is a list of {len(words)}, but the number of prompts is {prompts}")
    players = {
        (number % len(images), word): Subject(
            images[number % len(images)], word, occurrence, mask=mask, mask_mode=mask_mode
        )
        for number, word in enumerate(words)
    }
    return [[players[number % len(images), word] for number, word in enumerate(words)]]


def _scales(scale: float | Sequence[float], samples: int) -> list[float]:
    """Return `subject_scale` for each picture."""
    if not is_number(scale) and not isinstance(scale, (list, tuple)):
        raise InputError(f"subject_scale must be a number or a list with one for each picture, but is {scale!r}")
    scales: list[Any] = list(scale) if isinstance(scale, (list, tuple)) else [scale] * samples
    if len(scales) != samples:
        raise InputError(f"subject_scale is a list of {len(scales)}, but {samples} pictures are to be made")
    for one in scales:
        check_numbers({"subject_scale": one})
    return [float(one) for one in scales]


def side_of(pipeline: DiffusionPipeline) -> int:
    """Return the side of the own pictures of a pipeline with a UNet, in pixels."""
    return pipeline.unet.config.sample_size * pipeline.vae_scale_factor


def check_layers(unet: UNet2DConditionModel, beginnings: Sequence[str]) -> None:
    """Check beginnings of names of cross-attention layers.

    Raises:
        InputError: no layer of the UNet begins like one of them.
    """
    layers = cross_attention_layers(unet)
    if isinstance(beginnings, str):
        raise InputError(f"mask_layers must be a list of beginnings of names, but is the word {beginnings!r}")
    for beginning in beginnings:
        if not any(name.startswith(beginning) for name in layers):
            blocks = list(dict.fromkeys(name.partition(".attentions")[0] for name in layers))
            raise InputError(
                f"no cross-attention layer begins with {beginning!r}; those of this UNet lie in {', '.join(blocks)}."
                f"{did_you_mean(beginning, [*blocks, *layers])}"
            )


def _check_base(unet: UNet2DConditionModel) -> None:
    """Check that the loop here gives a UNet all that it wants.

    Raises:
        InputError: it wants more.
    """
    config = unet.config
    if config.in_channels != config.out_channels:
        raise InputError(
            f"this UNet takes {config.in_channels} channels and predicts {config.out_channels}, as one for inpainting does; "
            "use it in diffusers' own pipeline, with realcustom.load_realcustom"
        )
    if config.time_cond_proj_dim is not None:
        raise InputError(
            "this UNet is told its guidance scale (time_cond_proj_dim), as one of few steps is; use it in diffusers' own "
            "pipeline, with realcustom.load_realcustom"
        )


def check_fit(adapter: RealCustomAdapter, unet: UNet2DConditionModel) -> None:
    """Check that an adapter was made for the family of a UNet.

    Raises:
        InputError: its layers or their widths are others.
    """
    own = {name: layer.inner_dim for name, layer in cross_attention_layers(unet).items()}
    made_for = dict(adapter.config["layers"])
    if made_for != own:
        raise InputError(
            f"the adapter was made for another UNet: {len(made_for)} cross-attention layers of widths "
            f"{sorted(set(made_for.values()))}, but this base has {len(own)} of widths {sorted(set(own.values()))}"
        )


def _checked_generators(generator: Any, samples: int) -> torch.Generator | list[torch.Generator] | None:
    """Return one generator, or one for each picture, as diffusers takes them.

    Raises:
        InputError: they are something else, or not as many as pictures.
    """
    several = isinstance(generator, (list, tuple))
    for one in generator if several else [] if generator is None else [generator]:
        if not isinstance(one, torch.Generator):
            raise InputError(f"generator must be a torch.Generator or a list of them, but is {generator!r}")
    if several and len(generator) != samples:
        raise InputError(f"generator is a list of {len(generator)}, but {samples} pictures are to be made")
    return list(generator) if several else generator


def _given_back(returned: Any, latents: Tensor) -> Tensor:
    """Return the latents that a callback gives back; those before if it gives none."""
    if returned is None:
        return latents
    if not isinstance(returned, Mapping) or not isinstance(returned.get("latents", latents), Tensor):
        raise InputError(f"callback_on_step_end must return nothing or a dict of tensors, but returned {returned!r}")
    return returned.get("latents", latents)
