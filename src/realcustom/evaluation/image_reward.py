"""ImageReward (Xu et al., 2023): how much people would like a picture of a sentence, by a BLIP with a head on its text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from realcustom.checks import check_state
from realcustom.convert import State, renamed

MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
"""Of the head's output over its authors' training pictures; a reward is counted from there."""

LONGEST = 35
"""Tokens of a sentence at most; shorter ones are filled up."""


class ImageRewardModel(ModelMixin, ConfigMixin):
    """A ViT that sees the picture, a BERT that reads the sentence and attends to it, and a head on the first token.

    Args:
        vision: arguments of `transformers.BlipVisionConfig` that differ from those of the published weights, a ViT-L/16.
        text: likewise of `transformers.BlipTextConfig`.
        head_widths: of the head's layers, which are linear with nothing between, but the last.
    """

    @register_to_config
    def __init__(
        self,
        vision: dict[str, Any] | None = None,
        text: dict[str, Any] | None = None,
        head_widths: Sequence[int] = (1024, 128, 64, 16),
    ) -> None:
        super().__init__()
        large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
        seen = BlipVisionConfig(
            **{**large, "image_size": 224, "patch_size": 16, "layer_norm_eps": 1e-6, **(vision or {})}
        )
        base = {"vocab_size": 30524, "num_attention_heads": 12, "encoder_hidden_size": seen.hidden_size}
        read = BlipTextConfig(**{**base, **(text or {})})
        self.vision_model = BlipVisionModel(seen)
        self.text_encoder = BlipTextModel(read, add_pooling_layer=False)
        widths = [read.hidden_size, *head_widths, 1]
        self.head = nn.ModuleList([nn.Linear(*pair) for pair in pairwise(widths)])

    @property
    def side(self) -> int:
        """Of the pictures that it sees, in pixels."""
        return self.vision_model.config.image_size

    def forward(
        self, pixels: Float[Tensor, "b 3 h w"], input_ids: Int[Tensor, "b n"], attention_mask: Int[Tensor, "b n"]
    ) -> Float[Tensor, " b"]:
        """Return the reward of each normalized picture under its sentence: about 0 on average, larger is better."""
        seen = self.vision_model(pixel_values=pixels).last_hidden_state
        state = self.text_encoder(
            input_ids=input_ids, attention_mask=attention_mask, encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
        ).last_hidden_state[:, 0]  # fmt: skip
        for layer in self.head:
            state = layer(state)
        return (state[:, 0] - MEAN) / DEVIATION


_UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")
"""What the published file holds and the reward does not depend on."""

_HEAD = (0, 2, 4, 6, 7)
"""The places of the head's layers in the published file; dropout is between the first four."""

_NAMES = {
    r"^blip\.visual_encoder\.": "vision_model.",
    r"^blip\.text_encoder\.": "text_encoder.",
    r"\.patch_embed\.proj\.": ".embeddings.patch_embedding.",
    r"\.pos_embed$": ".embeddings.position_embedding",
    r"\.cls_token$": ".embeddings.class_embedding",
    r"^vision_model\.norm\.": "vision_model.post_layernorm.",
    r"\.blocks\.": ".encoder.layers.",
    r"\.norm(\d)\.": r".layer_norm\1.",
    r"\.attn\.qkv\.": ".self_attn.qkv.",
    r"\.attn\.proj\.": ".self_attn.projection.",
    r"^mlp\.layers\.([02467])\.": lambda match: f"head.{_HEAD.index(int(match[1]))}.",
}


def image_reward_of(state: State, **shapes: Any) -> ImageRewardModel:
    """Return the model of a state dict under its authors' names.

    Args:
        state: of `ImageReward.pt`.
        **shapes: arguments of `ImageRewardModel`, if it is of another size.

    Raises:
        CheckpointMismatch: keys are missing, unexpected or of another shape.
    """
    with torch.device("meta"):
        model = ImageRewardModel(**shapes)
    own = renamed({key: tensor for key, tensor in state.items() if not key.startswith(_UNUSED)}, _NAMES)
    check_state("ImageReward", model.state_dict(), own)
    model = ImageRewardModel(**shapes)
    model.load_state_dict(own)
    return model.eval()
