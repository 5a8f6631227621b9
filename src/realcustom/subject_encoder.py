"""A subject's picture becomes what the steps of a run attend to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel

from realcustom.adapter import RealCustomAdapter
from realcustom.customization import Actor, Reference
from realcustom.errors import InputError
from realcustom.finding import seen_side
from realcustom.latents import Autoencoder, to_latents
from realcustom.masks import area_mask, resize_mask
from realcustom.pictures import as_seen
from realcustom.placement import grid_side
from realcustom.portrait import Portrait, cells_within, examine, fit_reference, fitted_box
from realcustom.projector import latent_features, patch_side
from realcustom.report import SubjectMasks
from realcustom.saved_subject import SavedSubject
from realcustom.subject import Likeness, Subject
from realcustom.vision import ImageFeatures, clip_features, twin_features


@dataclass(frozen=True)
class SubjectEncoder:
    """What sees the subject: an autoencoder, a CLIP image encoder, or SigLIP and DINOv2 together."""

    vae: Autoencoder
    side: int
    """Of the base's own pictures, in pixels."""
    image_encoder: PreTrainedModel | None = None
    image_encoder_2: PreTrainedModel | None = None

    @property
    def reference_side(self) -> int:
        """Of what is seen of a reference, in pixels."""
        return seen_side(self.side, [one.config.image_size for one in self._image_encoders])

    @property
    def _image_encoders(self) -> list[PreTrainedModel]:
        return [one for one in (self.image_encoder, self.image_encoder_2) if one is not None]

    def reference(
        self,
        adapter: RealCustomAdapter,
        likenesses: Sequence[Likeness],
        portraits: Sequence[Portrait],
        device: torch.device,
        dtype: torch.dtype,
        *,
        share: float = 1.0,
        squashed: bool = False,
    ) -> Reference:
        """Return the tokens, keys and values of one picture of each subject, a row for each.

        Args:
            adapter: makes tokens, keys and values of features.
            likenesses: pictures of subjects, or what was saved of them.
            portraits: what is known of these pictures.
            device: of the result.
            dtype: likewise.
            share: see `Reference`.
            squashed: bring pictures to a square as the authors do, instead of padding them.

        Raises:
            InputError: the adapter was made for another encoder, or places tokens that are no grid, or the subject was saved
                from another encoder.
        """
        side = self.reference_side
        pictures = [one for one in likenesses if isinstance(one, Image.Image)]
        seen: list[ImageFeatures] = []
        if pictures:
            pixels = torch.cat(
                [_squashed(one, side) if squashed else _pixels(fit_reference(one, side)) for one in pictures]
            )
            seen = _each(self.features(pixels.to(device), adapter))
        for one in likenesses:
            if isinstance(one, SavedSubject):
                self.require(one, adapter)
        features = _together(
            [one.features if isinstance(one, SavedSubject) else seen.pop(0) for one in likenesses], device
        )
        wanted, width = adapter.config["feature_dim"], features.deep.shape[2]
        if width != wanted:
            encoder = type(self.image_encoder or self.vae).__name__
            raise InputError(
                f"the adapter takes features {wanted} wide, but the {encoder} of this pipeline gives {width}"
            )
        tokens = adapter.tokens(*as_arguments(features, dtype))
        if adapter.log_precisions:
            grid_side(tokens.shape[1])
        present = None
        if not squashed and any(portrait.size[0] != portrait.size[1] for portrait in portraits):
            present = self._present(portraits, features.deep.shape[1], tokens.shape[1]).to(device)
        frames = torch.tensor([portrait.frame for portrait in portraits], device=device)
        return Reference(tokens, adapter.keys_values(tokens), present, frames, share)

    def actor(
        self,
        adapter: RealCustomAdapter,
        role: Sequence[Subject],
        columns: Tensor,
        scales: Tensor,
        grid: tuple[int, int],
        device: torch.device,
        dtype: torch.dtype,
        *,
        squashed: bool = False,
    ) -> tuple[Actor, list[Portrait]]:
        """Return one subject of a run, and what is known of its pictures.

        Args:
            adapter: makes tokens, keys and values of features.
            role: who it is under each of `p` prompts: the same subject, or one each.
            columns: `[p, t, 1 + n]`, of its words, see `Actor`.
            scales: `[b]`, what its contribution to each picture is multiplied with; those of one prompt follow each other.
            grid: height and width of masks.
            device: of the result.
            dtype: likewise.
            squashed: see `reference`.

        Raises:
            InputError: see `reference`; or its mask cannot be used.
        """
        first, samples = role[0], len(scales)
        portraits, references = [], []
        for number, share in enumerate(first.shares):
            shown = [(id(one.images[number]), tuple(one.box or ())) for one in role]
            each = list(dict.fromkeys(shown))  # what several prompts share is looked at once
            likenesses = [role[shown.index(one)].likenesses[number] for one in each]
            seen = [self.examine(one) for one in likenesses]
            reference = self.reference(adapter, likenesses, seen, device, dtype, share=share, squashed=squashed)
            which = torch.tensor([each.index(one) for one in shown]).repeat_interleave(samples // len(role))
            references.append(reference.repeated(samples) if len(each) == 1 else reference.rows(which.to(device)))
            portraits += seen
        given = None if first.mask is None else given_mask(first.mask, samples, grid, device)
        said = columns.repeat_interleave(samples // len(role), dim=0).to(device)
        return Actor(references, said, scales.to(device), given, first.mask_mode, first.start, first.end), portraits

    def examine(self, likeness: Likeness) -> Portrait:
        """Return what is seen of a picture, or was seen of one that was saved."""
        return likeness.portrait if isinstance(likeness, SavedSubject) else examine(likeness, self.reference_side)

    @torch.no_grad()
    def remember(self, picture: Image.Image, adapter: RealCustomAdapter, word: str, note: str = "") -> SavedSubject:
        """Return what can be saved of a subject's picture."""
        seen = fit_reference(picture, self.reference_side)
        features = self.features(_pixels(seen).to(next(adapter.parameters()).device), adapter)
        kept = ImageFeatures(
            features.deep.float().cpu(),
            None if features.local is None else features.local.float().cpu(),
            tuple(layer.float().cpu() for layer in features.shallow),
        )
        return SavedSubject(kept, self.examine(picture), seen, word, self.name(adapter), note)

    def name(self, adapter: RealCustomAdapter) -> str:
        """Return the name of the encoder, and two hashes of all that decides the features that an adapter gets from it.

        An encoder and its copy in fewer digits have one of them in common, see `same_encoder`.
        """
        parts = self._image_encoders
        seen_by: list[Any] = parts or [self.vae.encoder]
        own = self.vae.config.get
        scaling = [] if parts else [own("scaling_factor"), own("shift_factor")]
        # What only some say is only told of them, so that the names of the others stay what they were.
        scaling += [said for name in ("latents_mean", "latents_std") if not parts and (said := own(name)) is not None]
        told = [
            self.reference_side,
            scaling,
            {key: list(value) for key, value in (adapter.config["feature_layers"] or {}).items()},
        ]
        hashes = []
        for hashed in zip(*map(_hashes, seen_by), strict=True):
            digest = hashlib.sha256(json.dumps([*hashed, told], sort_keys=True).encode())
            hashes.append(digest.hexdigest()[:12])
        return f"{' and '.join(type(part).__name__ for part in parts or [self.vae])} {'-'.join(hashes)}"

    def require(self, subject: SavedSubject, adapter: RealCustomAdapter) -> None:
        """Check that a saved subject was seen by this encoder.

        Raises:
            InputError: it was seen by another one.
        """
        own = self.name(adapter)
        if not same_encoder(subject.encoder, own):
            raise InputError(
                f"the saved subject {subject.word!r} was seen by {subject.encoder}, but this model sees with {own}; save it "
                "again from its picture with this model"
            )

    def features(self, levels: Tensor, adapter: RealCustomAdapter) -> ImageFeatures:
        """Return the features of square pictures `[n, 3, h, w]` in [0, 1].

        Raises:
            InputError: the adapter does not say which layers its features are of.
        """
        if self.image_encoder is None:
            latents = to_latents(self.vae, 2 * levels - 1)
            return ImageFeatures(latent_features(latents, patch_side(adapter.config["feature_dim"], latents.shape[1])))
        if self.image_encoder_2 is None:
            return clip_features(levels, self.image_encoder)
        layers = adapter.config["feature_layers"]
        if not layers:
            raise InputError(
                "the adapter's feature_layers must say which layers of siglip and dino it takes, but it has none"
            )
        return twin_features(
            levels, self.image_encoder, self.image_encoder_2, siglip_layers=layers["siglip"], dino_layers=layers["dino"]
        )

    def _present(self, portraits: Sequence[Portrait], features: int, tokens: int) -> Tensor:
        """Return which tokens `[n, tokens]` show the pictures and not their padding."""
        cells, side = int(features**0.5), self.reference_side
        beside = features - cells**2  # a class token, if there is one, is no cell
        boxes = [fitted_box(portrait.size, side) for portrait in portraits]
        shown = torch.from_numpy(np.stack([cells_within(box, side, cells) for box in boxes]))
        shown = torch.cat([torch.ones(len(shown), beside, dtype=torch.bool), shown], dim=1)
        return shown.repeat(1, tokens // features)  # shallow tokens come after the deep ones


def _each(features: ImageFeatures) -> list[ImageFeatures]:
    """Return the features of each of several pictures."""
    return [
        ImageFeatures(
            features.deep[row : row + 1],
            None if features.local is None else features.local[row : row + 1],
            tuple(layer[row : row + 1] for layer in features.shallow),
        )
        for row in range(len(features.deep))
    ]


def _together(each: Sequence[ImageFeatures], device: torch.device) -> ImageFeatures:
    """Return the features of several pictures as one."""
    deep = torch.cat([one.deep.to(device) for one in each])
    local = [one.local.to(device) for one in each if one.local is not None]
    layers = zip(*(one.shallow for one in each), strict=True)
    shallow = tuple(torch.cat([layer.to(device) for layer in many]) for many in layers)
    return ImageFeatures(deep, torch.cat(local) if local else None, shallow)


def _pixels(picture: Image.Image) -> Tensor:
    """Return a picture `[1, 3, h, w]` in [0, 1]."""
    levels = torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32) / 255)
    return rearrange(levels, "h w c -> 1 c h w")


def _squashed(picture: Image.Image, side: int) -> Tensor:
    """Return a picture brought to a square as the authors do it: bilinearly, every pixel between four."""
    return F.interpolate(_pixels(as_seen(picture)), (side, side), mode="bilinear", align_corners=False)


def as_arguments(features: ImageFeatures, dtype: torch.dtype) -> tuple[Any, ...]:
    """Return the features that there are, as an adapter takes them."""
    if features.local is None:
        return (features.deep.to(dtype),)
    return features.deep.to(dtype), features.local.to(dtype), [layer.to(dtype) for layer in features.shallow]


def given_mask(mask: Any, samples: int, grid: tuple[int, int], device: torch.device) -> Tensor:
    """Return a mask that a user gave as `[samples, *grid]` float32.

    Args:
        mask: `[h, w]` or `[b, h, w]` in [0, 1] of any size, a grey picture, or the masks of an earlier run.
        samples: how many pictures it is for.
        grid: height and width of masks.
        device: of the result.

    Raises:
        InputError: it cannot be used.
    """
    if isinstance(mask, SubjectMasks):
        mask = mask.final
    if isinstance(mask, Image.Image):
        mask = torch.from_numpy(_grey_levels(mask))
    if isinstance(mask, np.ndarray) and mask.dtype.kind in "biuf":
        mask = torch.from_numpy(np.ascontiguousarray(mask, np.float32))
    if not isinstance(mask, Tensor):
        raise InputError(
            f"mask must be a picture, a tensor, an array or the masks of a run, but is a {type(mask).__name__}"
        )
    if mask.is_complex() or not mask.numel():
        raise InputError(f"mask must hold real numbers, but is {list(mask.shape)} of {mask.dtype}")
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


def same_encoder(one: str, other: str) -> bool:
    """Whether two names of encoders are of the same one, perhaps in numbers of different types."""
    (kind, _, hashes), (other_kind, _, other_hashes) = one.rpartition(" "), other.rpartition(" ")
    return kind == other_kind and not set(hashes.split("-")).isdisjoint(other_hashes.split("-"))


_HASHES: WeakKeyDictionary[nn.Module, tuple[list[tuple[int, int]], list[str]]] = WeakKeyDictionary()
"""Of modules that were hashed, with what tells whether their numbers are still the same."""


def _hashes(part: nn.Module) -> list[str]:
    """Return the hashes of a module's numbers, rounded to bfloat16 at once and by way of float16.

    Rounding twice is not rounding once: a copy in bfloat16 shares the first with what it was made of, one in float16 the
    second.
    """
    state = sorted(part.state_dict().items())
    if any(weights.is_meta for _, weights in state):
        raise InputError(
            "a saved subject cannot be checked while its encoder's numbers are away from the module; take "
            "enable_model_cpu_offload instead of enable_sequential_cpu_offload, or the picture itself"
        )
    version = [(weights.data_ptr(), weights._version) for _, weights in state]
    if part not in _HASHES or _HASHES[part][0] != version:
        digests = hashlib.sha256(), hashlib.sha256()
        for _, weights in state:
            for digest, first in zip(digests, (weights, weights.to(torch.float16)), strict=True):
                digest.update(first.to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
        _HASHES[part] = version, [digest.hexdigest() for digest in digests]
    return _HASHES[part][1]
