"""Small networks that look at pictures of the stickers world: where things are, what they are, where they stand, whose.

They are trained on rendered scenes, apart from every model that they judge and with nothing of it inside, and each states
how well it does on real renders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel, SegformerConfig, SegformerForSemanticSegmentation

SHIPPED = Path(str(resources.files("realcustom"))) / "models" / "judges"
"""Folder of the judges that come with this package."""

CROP = 96
"""Side of the crop that the identity encoder sees, in pixels."""


@dataclass(frozen=True)
class Reading:
    """What the judges see in `b` pictures."""

    region: Float[Tensor, "b h w"]
    """Probability that a pixel belongs to the thing."""
    logits: dict[str, Float[Tensor, "b _"]]
    """For "place", "noun" and "colour", "worn" and "beside" if they are known: one number for each of the judge's labels.
    What is beside the thing is "" for certain where nothing is found there."""
    identity: Float[Tensor, "b c"]
    """Embeddings of length 1 of the thing in the region; the closer two are, the likelier they show one subject. Zero, which is
    like nothing, where there is no thing."""

    @property
    def found(self) -> Bool[Tensor, " b"]:
        """Whether there is a thing at all."""
        return _any(self.region)[:, 0]


def _any(region: Float[Tensor, "b h w"]) -> Bool[Tensor, "b 1"]:
    """Return whether anything lies in a region."""
    return (region >= 0.5).flatten(1).any(dim=1, keepdim=True)


class Judges(ModelMixin, ConfigMixin):
    """A segmenter, a reader of the place, and an encoder of the thing alone: its noun, colour and identity.

    Args:
        places: names of the backgrounds that can be told apart.
        nouns: names of the things.
        colours: names of the colours that a thing can be given.
        worn: names of what a thing can wear; none leaves it unjudged.
        beside: nouns, of those above, of what can be beside a thing; none leaves it unjudged.
        widths: channels of the four stages of each network.
        identity_dim: width of the identity's embedding.
    """

    @register_to_config
    def __init__(
        self,
        places: Sequence[str],
        nouns: Sequence[str],
        colours: Sequence[str],
        worn: Sequence[str] = (),
        beside: Sequence[str] = (),
        widths: Sequence[int] = (32, 64, 128, 256),
        identity_dim: int = 128,
    ) -> None:
        super().__init__()
        if strange := set(beside) - set(nouns):
            raise ValueError(f"what is beside must be among the nouns, but {', '.join(sorted(strange))} is not")
        self.segmenter = SegformerForSemanticSegmentation(
            SegformerConfig(
                num_labels=2 if beside else 1, depths=[2, 2, 2, 2], hidden_sizes=[max(16, width // 2) for width in widths],
                decoder_hidden_size=64, hidden_dropout_prob=0.0, drop_path_rate=0.0, classifier_dropout_prob=0.0,
            )
        )  # fmt: skip
        residual = {"embedding_size": widths[0], "hidden_sizes": list(widths), "depths": [1] * 4, "layer_type": "basic"}
        self.reader = ResNetModel(ResNetConfig(**residual))
        self.encoder = ResNetModel(ResNetConfig(**residual))
        self.labels = {"place": list(places), "noun": list(nouns), "colour": list(colours)}
        self.labels |= {name: ["", *known] for name, known in (("worn", worn), ("beside", beside)) if known}
        self.heads = nn.ModuleDict(
            {name: nn.Linear(widths[-1], len(known)) for name, known in self.labels.items() if name != "beside"}
        )
        self.to_identity = nn.Linear(widths[-1], identity_dim)

    def segment(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b r h w"]:
        """Return, for each pixel in [-1, 1], the logits of belonging to the thing and, if known, to what is beside it."""
        coarse = self.segmenter(pixels).logits
        return F.interpolate(coarse, pixels.shape[-2:], mode="bilinear", align_corners=False)

    def survey(self, pixels: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """Return the logits of the place, and of what is worn if it is known; pixels are in [-1, 1]."""
        features = self.reader(pixels).pooler_output.flatten(1)
        return {name: self.heads[name](features) for name in ("place", "worn") if name in self.labels}

    def describe(self, pixels: Float[Tensor, "b 3 h w"], region: Float[Tensor, "b h w"]) -> dict[str, Tensor]:
        """Return the logits of noun and colour and the identity's embedding, see `Reading`, of what lies in `region`."""
        seen = self.describe_crops(subject_crops(pixels, region))
        return seen | {"identity": seen["identity"] * _any(region)}

    def describe_crops(self, crops: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """Return the same for things alone on white, as `subject_crops` makes them."""
        features = self.encoder(crops).pooler_output.flatten(1)
        return {
            "noun": self.heads["noun"](features),
            "colour": self.heads["colour"](features),
            "identity": F.normalize(self.to_identity(features), dim=1),
        }

    @torch.no_grad()
    def read(self, pixels: Float[Tensor, "b 3 h w"]) -> Reading:
        """Return all that the judges see in pictures."""
        regions = self.segment(pixels).sigmoid()
        seen = self.describe(pixels, regions[:, 0].round())
        identity = seen.pop("identity")
        if "beside" in self.labels:
            seen["beside"] = self._beside(pixels, regions[:, 1].round())
        return Reading(regions[:, 0], {**self.survey(pixels), **seen}, identity)

    def _beside(self, pixels: Tensor, region: Tensor) -> Tensor:
        nouns = self.describe(pixels, region)["noun"]
        known = [self.labels["noun"].index(noun) for noun in self.labels["beside"][1:]]
        nothing = torch.where(
            _any(region), -torch.inf, torch.finfo(nouns.dtype).max
        )  # of infinity a softmax would be nan
        return torch.cat([nothing, nouns[:, known]], dim=1)


def subject_crops(
    pixels: Float[Tensor, "b 3 h w"], region: Float[Tensor, "b h w"], side: int = CROP
) -> Float[Tensor, "b 3 {side} {side}"]:
    """Return each thing alone on white, cropped to a square around it and scaled to `side` pixels.

    Args:
        pixels: in [-1, 1].
        region: how much of each pixel is the thing's, in [0, 1]; where none reaches one half, what is left is white.
        side: of the crops.
    """
    weight = region[:, None]
    alone = pixels * weight + (1 - weight)
    return torch.cat([_square(alone[row, None], region[row] >= 0.5, side) for row in range(len(pixels))])


def _square(picture: Tensor, inside: Tensor, side: int) -> Tensor:
    rows, columns = inside.any(dim=1).nonzero()[:, 0], inside.any(dim=0).nonzero()[:, 0]
    if len(rows):
        picture = picture[..., int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
    height, width = picture.shape[-2:]
    longer = max(height, width)
    top, left = (longer - height) // 2, (longer - width) // 2
    square = F.pad(picture, (left, longer - width - left, top, longer - height - top), value=1.0)
    return F.interpolate(square, (side, side), mode="bilinear", align_corners=False, antialias=True)


def bare_region(drawings: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
    """Return 1 where a picture of a drawing alone on white, in [-1, 1], is not white."""
    return (drawings.amin(dim=1) < 0.98).float()
