"""The networks that photographs are measured with: CLIP, DINO and others, from folders or the hub, none of them ours.

What is not named and not in the hub's cache is not measured, and the report says why. Where a repository's main revision holds
pickles only, a pull request of the hub's converter often holds the same as safetensors: ID@refs/pr/NUMBER.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image, ImageOps
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel, CLIPSegForImageSegmentation, ViTModel

from realcustom.errors import InputError
from realcustom.evaluation.image_reward import LONGEST, ImageRewardModel
from realcustom.evaluation.lpips import Lpips
from realcustom.loading import fingerprint, load_strictly, part_folder, require_tokenizer
from realcustom.painting import to_device
from realcustom.vision import OF_CLIP, OF_IMAGENET, normalized

USUAL = {
    "clip": "openai/clip-vit-base-patch32", "dino": "facebook/dino-vits16", "segmenter": "CIDAS/clipseg-rd64-refined",
}  # fmt: skip
"""What the benchmarks' published figures were measured with; the segmenter aside, where RealCustom's paper has SAM.
The others are published as pickles only."""


@runtime_checkable
class ImageEncoder(Protocol):
    """Turns pictures into embeddings."""

    name: str
    """Which weights these are."""

    def embed(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "b c"]:
        """Return embeddings of length 1."""
        ...


@runtime_checkable
class TextImageEncoder(ImageEncoder, Protocol):
    """Turns sentences into embeddings of the same space, too."""

    def embed_text(self, sentences: Sequence[str]) -> Float[Tensor, "b c"]:
        """Return embeddings of length 1."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """Finds what a word means in a picture."""

    name: str
    """Which weights these are."""

    def region(self, picture: Image.Image, word: str) -> Bool[Tensor, "h w"]:
        """Return where it is, at the picture's size."""
        ...


@runtime_checkable
class Reward(Protocol):
    """Says how much people would like a picture of a sentence."""

    name: str
    """Which weights these are."""

    def reward(self, picture: Image.Image, sentence: str) -> float:
        """Return it; larger is better."""
        ...


@runtime_checkable
class Distance(Protocol):
    """Says how different pictures look."""

    name: str
    """Which weights these are."""

    def distance(self, one: Image.Image, other: Image.Image) -> float:
        """Return it; 0 for two that are the same. They are of one size."""
        ...


@dataclass(frozen=True)
class Clip:
    """CLIP: pictures by their shorter side at the encoder's size, its middle; sentences cut at 77 tokens."""

    name: str
    model: CLIPModel
    tokenizer: Any

    @torch.no_grad()
    def embed(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "b c"]:
        """Return embeddings of length 1."""
        side = self.model.config.vision_config.image_size
        pixels = normalized(torch.stack([_middle(picture, side, side) for picture in pictures]), OF_CLIP)
        pooled = self.model.vision_model(pixel_values=pixels.to(self.model.device)).pooler_output
        return F.normalize(self.model.visual_projection(pooled), dim=-1).cpu()

    @torch.no_grad()
    def embed_text(self, sentences: Sequence[str]) -> Float[Tensor, "b c"]:
        """Return embeddings of length 1."""
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(list(sentences), padding=True, truncation=True, max_length=length, return_tensors="pt")
        tokens = tokens.to(self.model.device)
        pooled = self.model.text_model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).pooler_output
        return F.normalize(self.model.text_projection(pooled), dim=-1).cpu()


@dataclass(frozen=True)
class Dino:
    """DINO: the class token of pictures whose shorter side is 8/7 of the encoder's size, their middle."""

    name: str
    model: ViTModel

    @torch.no_grad()
    def embed(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "b c"]:
        """Return embeddings of length 1."""
        side = self.model.config.image_size
        resized = round(side * 256 / 224)
        pixels = normalized(torch.stack([_middle(picture, resized, side) for picture in pictures]), OF_IMAGENET)
        states = self.model(pixel_values=pixels.to(self.model.device)).last_hidden_state
        return F.normalize(states[:, 0], dim=-1).cpu()


CLIPSEG_SIDE = 352
"""Side of the pictures that CLIPSeg's published processor makes; its config says CLIP's, 224."""


@dataclass(frozen=True)
class ClipSegmenter:
    """CLIPSeg: where a word's probability is above one half, which may be nowhere."""

    name: str
    model: CLIPSegForImageSegmentation
    tokenizer: Any

    @torch.no_grad()
    def region(self, picture: Image.Image, word: str) -> Bool[Tensor, "h w"]:
        """Return where the word's thing is."""
        squared = picture.convert("RGB").resize((CLIPSEG_SIDE, CLIPSEG_SIDE), Image.Resampling.BILINEAR)
        tokens = self.tokenizer([word], return_tensors="pt").to(self.model.device)
        pixels = normalized(_pixels(squared)[None], OF_IMAGENET).to(self.model.device)
        logits = self.model(pixel_values=pixels, **tokens).logits.cpu()
        size = (picture.height, picture.width)
        return F.interpolate(logits.reshape(1, 1, *logits.shape[-2:]), size, mode="bilinear")[0, 0] > 0


@dataclass(frozen=True)
class ImageReward:
    """ImageReward: pictures by their shorter side at the model's size, its middle; sentences cut at 35 tokens."""

    name: str
    model: ImageRewardModel
    tokenizer: Any

    @torch.no_grad()
    def reward(self, picture: Image.Image, sentence: str) -> float:
        """Return the reward, which is about 0 on average."""
        pixels = normalized(_middle(picture, self.model.side, self.model.side)[None], OF_CLIP).to(self.model.device)
        tokens = self.tokenizer(
            [sentence], padding="max_length", truncation=True, max_length=LONGEST, return_tensors="pt"
        ).to(self.model.device)
        return float(self.model(pixels, tokens["input_ids"], tokens["attention_mask"]))


@dataclass(frozen=True)
class LpipsDistance:
    """LPIPS of pictures as large as they are."""

    name: str
    model: Lpips

    @torch.no_grad()
    def distance(self, one: Image.Image, other: Image.Image) -> float:
        """Return the distance."""
        mine, theirs = (_pixels(picture.convert("RGB"))[None].to(self.model.device) * 2 - 1 for picture in (one, other))
        return float(self.model(mine, theirs))


@dataclass(frozen=True)
class Encoders:
    """What there is to measure with."""

    clip: TextImageEncoder | None = None
    dino: ImageEncoder | None = None
    segmenter: Segmenter | None = None
    image_reward: Reward | None = None
    lpips: Distance | None = None
    missing: tuple[tuple[str, str], ...] = ()
    """Of those that are not there, name and reason."""

    def names(self) -> dict[str, str]:
        """Return which weights each is, or why it is not measured."""
        known = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "missing"}
        named = {name: one.name for name, one in known.items() if one is not None}
        return dict.fromkeys(known, "not measured") | named | {
            name: f"not measured: {reason}" for name, reason in self.missing
        }  # fmt: skip


def load_encoders(
    clip: str | Path | None = None,
    dino: str | Path | None = None,
    segmenter: str | Path | None = None,
    image_reward: str | Path | None = None,
    lpips: str | Path | None = None,
    *,
    device: str | None = None,
) -> Encoders:
    """Return the encoders that can be had, on a device, the best that there is if none is named.

    Each comes from a folder; one of the first three also, by its id or ID@REVISION, from the hub, or if it is not named and
    `USUAL`, from the hub's cache. Those of the last two that are published are pickled; `realcustom convert --as` makes
    folders of them.

    Raises:
        InputError: one that is named is not there, is another one, or the device cannot be used.
    """
    found: dict[str, Any] = {}
    missing = []
    for name, source, load in (
        ("clip", clip, _clip), ("dino", dino, _dino), ("segmenter", segmenter, _segmenter),
        ("image_reward", image_reward, _image_reward), ("lpips", lpips, _lpips),
    ):  # fmt: skip
        if source is not None:
            if name not in USUAL and not os.path.isdir(source):
                raise InputError(f"{source} is no folder; realcustom convert --as {name.replace('_', '-')} makes one")
            found[name] = load(*_folder(source))
        elif name not in USUAL:
            missing.append((name, "no folder of it is given"))
        else:
            try:
                found[name] = load(*_folder(USUAL[name], local_files_only=True))
            except InputError:
                missing.append((name, f"{USUAL[name]} is not in the hub's cache, whole; name it, and it is fetched"))
    moved = {name: replace(one, model=to_device(one.model, device)) for name, one in found.items()}
    return Encoders(**moved, missing=tuple(missing))


def cut_out(picture: Image.Image, region: Bool[Tensor, "h w"]) -> Image.Image:
    """Return what lies in a region, in the middle of a white square as large as it; of an empty region the picture itself."""
    if not bool(region.any()):
        return picture
    mask = Image.fromarray(region.numpy().astype("uint8") * 255)
    alone = Image.composite(picture.convert("RGB"), Image.new("RGB", picture.size, "white"), mask)
    cropped = alone.crop(mask.getbbox())
    # The encoders look at the middle square of a picture, and what is longer than wide would be lost.
    return ImageOps.pad(cropped, (max(cropped.size),) * 2, color="white")


def _folder(source: str | Path, *, local_files_only: bool = False) -> tuple[Path, str]:
    """Return the folder of an encoder, and its name for reports if the hub gives it one."""
    if os.path.isdir(source):
        return Path(source), ""
    name, _, revision = str(source).partition("@")
    folder = part_folder(name, revision=revision or None, local_files_only=local_files_only)
    return folder, f"{name}@{folder.name}"


def _clip(folder: Path, told: str) -> Clip:
    model = load_strictly(CLIPModel, folder)
    return Clip(told or _named(folder, model), model, _tokenizer(folder))


def _dino(folder: Path, told: str) -> Dino:
    model = load_strictly(ViTModel, folder, add_pooling_layer=False)
    return Dino(told or _named(folder, model), model)


def _segmenter(folder: Path, told: str) -> ClipSegmenter:
    model = load_strictly(CLIPSegForImageSegmentation, folder)
    return ClipSegmenter(told or _named(folder, model), model, _tokenizer(folder))


def _image_reward(folder: Path, told: str) -> ImageReward:
    model = load_strictly(ImageRewardModel, folder)
    return ImageReward(told or _named(folder, model), model, _tokenizer(folder))


def _lpips(folder: Path, told: str) -> LpipsDistance:
    model = load_strictly(Lpips, folder)
    return LpipsDistance(told or _named(folder, model), model)


def _named(folder: Path, model: Any) -> str:
    return f"{folder.name} ({fingerprint(model)})"


def _tokenizer(folder: Path) -> Any:
    require_tokenizer(folder)
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(f"could not load a tokenizer from {folder}: {error}") from error


def _middle(picture: Image.Image, resized: int, side: int) -> Float[Tensor, "3 {side} {side}"]:
    """Return the middle of a picture whose shorter side is made `resized` pixels long, bicubic, in [0, 1]."""
    # The longer side is cut off to a whole number, as the encoders' own processors do.
    width, height = (resized * length // min(picture.size) for length in picture.size)
    smaller = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    return _pixels(smaller.crop((left, top, left + side, top + side)))


def _pixels(picture: Image.Image) -> Tensor:
    levels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return levels.view(picture.height, picture.width, 3).permute(2, 0, 1).float() / 255
