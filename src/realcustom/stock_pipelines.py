"""RealCustom on diffusers' own pipelines: what loads, steers and removes it, in the manner of their IP-Adapter functions.

The pipeline's own call then makes the customized picture. A hook on the UNet lets its prediction be T2I, takes the mask from
it, runs the UNet once more for TI2I, and hands the pipeline `T + (w_i / w_t) (TI - T)` as the conditional prediction, which
its guidance turns into RC 13; with RC++'s direct guidance, TI itself. Nothing of the pipeline's code is replaced, so LoRA,
ControlNet, other tasks and few-step schedules go on working.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from realcustom.adapter import RealCustomAdapter, defaults_of
from realcustom.attention import (
    AttentionTap,
    SubjectAttnProcessor,
    attention_grid,
    cross_attention_layers,
    tapped_processors,
)
from realcustom.checks import check_numbers, check_positive_share
from realcustom.customization import Customization
from realcustom.errors import InputError, did_you_mean
from realcustom.loading import load_part
from realcustom.masks import MaskMode
from realcustom.pipeline import check_fit, check_layers, side_of
from realcustom.prompts import TextStates, find_words, word_columns
from realcustom.report import SubjectMasks
from realcustom.schedule import alpha_at
from realcustom.settings import MaskSettings
from realcustom.subject import Likeness, Subject
from realcustom.subject_encoder import SubjectEncoder

_ATTRIBUTE = "_realcustom"

_PLAIN = {"AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor"}
"""Processors of diffusers that all compute the same attention, which RealCustom's computes, too."""


@dataclass
class _Attachment:
    """What is attached to one pipeline."""

    pipeline: DiffusionPipeline
    adapter: RealCustomAdapter
    processors: Mapping[str, Any]
    """Those that the UNet had before."""
    encode_prompt: Mapping[str, Any]
    """That of the pipeline itself before, by its name, where it was not its class's."""
    image_encoder: Any = None
    image_encoder_2: Any = None
    tap: AttentionTap = field(default_factory=AttentionTap)
    handles: list[Any] = field(default_factory=list)
    subjects: Sequence[Subject] = ()
    named_prompts: tuple[str, ...] = ()
    """For calls that do not tell theirs."""
    scale: float = 1.0
    subject_guidance_scale: float = 1.0
    direct: bool = False
    settings: MaskSettings = field(default_factory=MaskSettings)
    token_ratio: float = 1.0
    prompts: Sequence[str] = ()
    """Of the run at hand."""
    run: Customization | None = None
    """The run at hand; None until the UNet is called for the first time in it."""
    states: Tensor | None = None
    """What the UNet was told then: the text of every picture."""
    call: tuple[Any, Any] | None = None
    """What the UNet call at hand was given; None if it is to be left as it is."""
    ended: bool = True
    """Whether the UNet is called for something else until a next run begins."""

    def begin(self, prompts: Sequence[str]) -> None:
        """Begin a new run, of which nothing is known but its prompts."""
        self.prompts, self.run, self.states, self.ended = prompts, None, None, False

    def end(self) -> None:
        """Forget the run: the next one begins when the pipeline is called."""
        self.prompts, self.run, self.states, self.ended = (), None, None, True

    def before(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Let the UNet record where the words look, if the next mask comes from there."""
        self.tap.word, self.call = None, None
        if not self.subjects or self.scale == 0 or self.ended:
            return
        if getattr(self.pipeline, "do_perturbed_attention_guidance", False):
            raise InputError("RealCustom does not know perturbed-attention guidance; take pag_scale=0 or unload it")
        sample, states = (
            _argument(arguments, named, 0, "sample"),
            _argument(arguments, named, 2, "encoder_hidden_states"),
        )
        if not all(isinstance(one, SubjectAttnProcessor) for one in self._own_processors(module)):
            raise InputError(
                "other attention processors have replaced RealCustom's; call set_realcustom_subject again, which puts them back"
            )
        if self.run is None:
            self.run, self.states = self._customization(sample, states)
        elif not self._is_this_run(states):
            return  # another pipeline that has this UNet, too
        # Of lists the UNet takes what it has used, and it is called twice.
        self.call = arguments, {name: list(one) if isinstance(one, list) else one for name, one in named.items()}
        self.tap.latent_size = (sample.shape[2], sample.shape[3])
        self.tap.spread_grid = self.run.grid if self.run.settings.mask_refined else None
        self.run.watch()

    def after(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        """Return the UNet's output with the conditional rows of the customized picture."""
        run, call, self.tap.word, self.call = self.run, self.call, None, None
        if run is None or call is None:
            return None
        sample, timestep = _argument(arguments, named, 0, "sample"), _argument(arguments, named, 1, "timestep")
        timestep = torch.as_tensor(timestep).flatten()[0]
        predicted = output[0] if isinstance(output, tuple) else output.sample
        batch, pictures = len(sample), len(run.text.states)
        if batch not in (pictures, 2 * pictures):
            raise InputError(
                f"the UNet was called with {batch} rows for {pictures} pictures; RealCustom knows one or two rows for each"
            )
        run.find_mask()
        self.ended = len(run.masks) >= run.evaluations
        rows = run.acting_rows()
        if not len(rows):
            return None
        places = rows + batch - pictures
        channels = self.adapter.config["latent_channels"]  # an inpainting UNet sees a mask and a picture after them
        with run.acting(sample[places][:, :channels], alpha_at(self.pipeline.scheduler.alphas_cumprod, timestep), rows):
            again, by_name = _rows(call, places, batch)
            painted = module.forward(*again, **by_name)
        painted = painted[0] if isinstance(painted, tuple) else painted.sample
        text = predicted[places]
        if not self.direct:
            scale = float(self.pipeline.guidance_scale) if batch == 2 * pictures else 1.0
            painted = text + (self.subject_guidance_scale / scale) * (painted - text)
        customized = predicted.index_copy(0, places, painted.to(predicted))
        return (customized, *output[1:]) if isinstance(output, tuple) else type(output)(sample=customized)

    def _is_this_run(self, states: Tensor) -> bool:
        known = self.states
        return known is not None and len(states) >= len(known) and torch.equal(states[-len(known) :], known)

    def _customization(self, sample: Tensor, states: Tensor) -> tuple[Customization, Tensor]:
        """Return a new run, and the text of its pictures."""
        prompts = self.prompts or self.named_prompts
        if not prompts:
            raise InputError(
                "the pipeline was given the prompt's states and not its words; name the prompts in set_realcustom_subject"
            )
        halves = 2 if self.pipeline.do_classifier_free_guidance else 1
        pictures = len(sample) // halves
        if len(sample) % halves or pictures % len(prompts):
            raise InputError(f"the UNet was called with {len(sample)} rows for {len(prompts)} prompts")
        device, dtype = sample.device, sample.dtype
        self.adapter.to(device, dtype)
        for part in (self.image_encoder, self.image_encoder_2):
            if part is not None:
                part.to(device)
        own = states[-pictures:]
        encoder = SubjectEncoder(self.pipeline.vae, side_of(self.pipeline), self.image_encoder, self.image_encoder_2)
        grid = attention_grid(_stock(self.pipeline.unet), (sample.shape[2], sample.shape[3]))
        said = [[(subject.word, subject.occurrence)] * len(prompts) for subject in self.subjects]
        tokenizer = self.pipeline.tokenizer
        words = find_words(prompts, said, tokenizer)
        every = word_columns(prompts, words, tokenizer, states.shape[1], later=self.settings.mask_yields)
        actors = []
        for subject, columns in zip(self.subjects, every, strict=True):
            scales, role = torch.full((pictures,), self.scale * subject.scale), [subject] * len(prompts)
            with torch.no_grad():
                actor, _ = encoder.actor(self.adapter, role, columns, scales, grid, device, dtype)
            actors.append(actor)
        text, evaluations = TextStates(own.to(dtype), None), self.pipeline.num_timesteps
        run = Customization(self.adapter, self.tap, text, actors, grid, evaluations, self.settings, self.token_ratio)
        return run, own

    def _own_processors(self, module: nn.Module) -> list[Any]:
        layers = cross_attention_layers(_stock(module))
        return [layer.processor for layer in layers.values()]


def load_realcustom(
    pipeline: DiffusionPipeline, adapter: str | Path | RealCustomAdapter, *, image_encoder: Any = None,
    image_encoder_2: Any = None, **hub: Any,
) -> None:  # fmt: skip
    """Attach a RealCustom adapter to a Stable Diffusion pipeline of diffusers.

    Until `set_realcustom_subject` is called, the pipeline makes the very pictures that it made before.

    Args:
        pipeline: text-to-image, image-to-image, inpainting, ControlNet, for Stable Diffusion 1.5 or XL.
        adapter: an adapter, or the name of a part's folder or hub id, which may bring its image encoders along.
        image_encoder: what sees the subject, if the adapter needs one and does not bring it.
        image_encoder_2: likewise.
        **hub: `revision`, `token`, `local_files_only` and `cache_dir`.

    Raises:
        InputError: an adapter is attached already, the adapter was made for another UNet, or cross-attention has processors
            that would be replaced, such as an IP-Adapter's.
    """
    if getattr(pipeline, _ATTRIBUTE, None) is not None:
        raise InputError("this pipeline has a RealCustom adapter; call unload_realcustom first")
    unet = getattr(pipeline, "unet", None)
    if unet is None or not all(
        hasattr(type(pipeline), one) for one in ("encode_prompt", "do_classifier_free_guidance")
    ):
        raise InputError(
            f"RealCustom attaches to Stable Diffusion pipelines with a UNet, not to a {type(pipeline).__name__}"
        )
    parts: dict[str, Any] = {"image_encoder": image_encoder, "image_encoder_2": image_encoder_2}
    if isinstance(adapter, RealCustomAdapter):
        parts["adapter"] = adapter
    else:
        parts = {
            **load_part(adapter, unet.dtype, base=False, **hub),
            **{name: one for name, one in parts.items() if one is not None},
        }
    stock = _stock(unet)
    check_fit(parts["adapter"], stock)
    before = dict(stock.attn_processors)
    replaced = {type(layer.processor).__name__ for layer in cross_attention_layers(stock).values()} - _PLAIN
    if SubjectAttnProcessor.__name__ in replaced:
        raise InputError(
            "another pipeline with this UNet has a RealCustom adapter; set the subject there, or call unload_realcustom for it "
            "first"
        )
    if replaced:
        raise InputError(
            f"RealCustom's attention would replace {', '.join(sorted(replaced))} in this UNet; unload what brought it (an "
            "IP-Adapter, for one), or call unet.set_default_attn_processor() first"
        )
    own = {name: one for name, one in pipeline.__dict__.items() if name == "encode_prompt"}
    attachment = _Attachment(pipeline=pipeline, processors=before, encode_prompt=own, **parts)
    attachment.direct = defaults_of(attachment.adapter)["guidance"] == "direct"
    stock.set_attn_processor(tapped_processors(stock, attachment.tap, self_attention=False))
    attachment.handles = [
        unet.register_forward_pre_hook(attachment.before, with_kwargs=True),
        unet.register_forward_hook(attachment.after, with_kwargs=True),
    ]
    _watch_prompts(pipeline, attachment)
    setattr(pipeline, _ATTRIBUTE, attachment)


def set_realcustom_subject(
    pipeline: DiffusionPipeline,
    image: Likeness,
    word: str,
    *,
    occurrence: int | None = None,
    mask: Any = None,
    mask_mode: MaskMode = "replace",
    **settings: Any,
) -> None:
    """Say whose picture the pipeline's next calls make, and which word of their prompts stands for it.

    Args:
        pipeline: with an adapter loaded.
        image: the one picture of the subject, or what was saved of it.
        word: a word or phrase of every prompt.
        occurrence: which one, if a prompt says it more than once; from 1.
        mask: where it may act, see `RealCustomPipeline.__call__`.
        mask_mode: how that mask and the word's go together.
        **settings: those of `set_realcustom_subjects`.

    Raises:
        InputError: no adapter is loaded, or an argument cannot be used.
    """
    _attachment(pipeline)
    if not isinstance(word, str) or not word.strip():
        raise InputError(f"word must be the word of the prompt that stands for the subject, but is {word!r}")
    subject = Subject(image, word, occurrence, mask=mask, mask_mode=mask_mode)
    set_realcustom_subjects(pipeline, [subject], **settings)


def set_realcustom_subjects(
    pipeline: DiffusionPipeline,
    subjects: Sequence[Subject],
    *,
    subject_guidance_scale: float | None = None,
    token_ratio: float | None = None,
    prompt: str | Sequence[str] | None = None,
    **masks: Any,
) -> None:
    """Say whose pictures the pipeline's next calls make: several subjects, each with its word in every prompt.

    Args:
        pipeline: with an adapter loaded.
        subjects: at least one.
        subject_guidance_scale: w_i; the paper's if not given. Direct guidance (RC++) does not read it.
        token_ratio: gamma_num (RC 10); the paper's if not given.
        prompt: the prompts, for calls that are given `prompt_embeds` instead of them.
        **masks: how the word's attention becomes a mask: `mask_scope`, `mask_yields` and the other fields of `MaskSettings`;
            the paper's of what is not given.

    Raises:
        InputError: no adapter is loaded, or an argument cannot be used.
    """
    attachment = _attachment(pipeline)
    if not isinstance(subjects, (list, tuple)) or not subjects or not all(isinstance(one, Subject) for one in subjects):
        raise InputError(f"subjects must be a list of realcustom.Subject, but is {subjects!r}")
    prompts = (prompt,) if isinstance(prompt, str) else None if prompt is None else tuple(prompt)
    defaults = defaults_of(attachment.adapter)
    known = {one.name for one in fields(MaskSettings)}
    for name in masks.keys() - known:
        raise InputError(f"a subject takes no {name!r}.{did_you_mean(name, sorted(known))}")
    own = {name: value for name, value in defaults.items() if name in known}
    settings = MaskSettings(**{**own, **{name: value for name, value in masks.items() if value is not None}})
    stock = _stock(pipeline.unet)
    check_layers(stock, settings.mask_layers)
    token_ratio = defaults["token_ratio"] if token_ratio is None else token_ratio
    check_positive_share("token_ratio", token_ratio)
    check_numbers({} if subject_guidance_scale is None else {"subject_guidance_scale": subject_guidance_scale})
    stock.set_attn_processor(tapped_processors(stock, attachment.tap, self_attention=settings.mask_refined))
    attachment.subjects, attachment.named_prompts = list(subjects), prompts or ()
    attachment.token_ratio, attachment.settings = token_ratio, settings
    attachment.subject_guidance_scale = (
        defaults["subject_guidance_scale"] if subject_guidance_scale is None else subject_guidance_scale
    )
    attachment.end()


def set_realcustom_scale(pipeline: DiffusionPipeline, scale: float) -> None:
    """Multiply the subject's contribution to every layer; 0 gives the plain picture, without a second run of the UNet.

    Raises:
        InputError: no adapter is loaded, or the scale is no number.
    """
    check_numbers({"scale": scale})
    _attachment(pipeline).scale = float(scale)


def realcustom_masks(pipeline: DiffusionPipeline) -> SubjectMasks | None:
    """Return where the subject could act in the last call; None if it did not act in any.

    Raises:
        InputError: no adapter is loaded.
    """
    run = _attachment(pipeline).run
    return SubjectMasks(torch.stack(run.masks)) if run is not None and run.masks else None


def unload_realcustom(pipeline: DiffusionPipeline) -> None:
    """Remove the adapter: the pipeline and its UNet are as they were before `load_realcustom`.

    Raises:
        InputError: no adapter is loaded.
    """
    attachment = _attachment(pipeline)
    for handle in attachment.handles:
        handle.remove()
    _stock(pipeline.unet).set_attn_processor(dict(attachment.processors))
    del pipeline.encode_prompt
    pipeline.__dict__.update(attachment.encode_prompt)
    delattr(pipeline, _ATTRIBUTE)


def _stock(unet: Any) -> Any:
    """Return the UNet itself if it was compiled."""
    return getattr(unet, "_orig_mod", unet)


def _attachment(pipeline: DiffusionPipeline) -> _Attachment:
    attachment = getattr(pipeline, _ATTRIBUTE, None)
    if attachment is None:
        raise InputError("this pipeline has no RealCustom adapter; call load_realcustom first")
    return attachment


def _watch_prompts(pipeline: DiffusionPipeline, attachment: _Attachment) -> None:
    """Let the attachment know the prompts of every run, which diffusers' pipelines all hand to `encode_prompt`."""
    encode = pipeline.encode_prompt

    @wraps(encode)
    def encode_prompt(prompt: Any = None, *arguments: Any, **named: Any) -> Any:
        attachment.begin((prompt,) if isinstance(prompt, str) else prompt or ())
        return encode(prompt, *arguments, **named)

    pipeline.encode_prompt = encode_prompt


def _argument(arguments: Sequence[Any], named: Mapping[str, Any], place: int, name: str) -> Any:
    return named[name] if name in named else arguments[place]


def _rows(value: Any, places: Tensor, batch: int) -> Any:
    """Return some rows of every tensor with one for each of `batch` samples, however deep it lies."""
    if isinstance(value, Tensor):
        return value[places] if value.ndim and len(value) == batch else value
    if isinstance(value, Mapping):
        return {name: _rows(one, places, batch) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_rows(one, places, batch) for one in value)
    return value
