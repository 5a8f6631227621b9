"""LPIPS (Zhang et al., 2018): how different two pictures look, by the features of an AlexNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from realcustom.checks import check_state
from realcustom.convert import State

WIDTHS = (64, 192, 384, 256, 256)
"""Channels of AlexNet's convolutions."""


class Lpips(ModelMixin, ConfigMixin):
    """Version 0.1 with AlexNet, as `lpips.LPIPS(net="alex")` computes it.

    Args:
        widths: channels of the five convolutions.
    """

    @register_to_config
    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        first, second, third, fourth, fifth = widths
        self.features = nn.Sequential(
            nn.Conv2d(3, first, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(first, second, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(second, third, 3, padding=1), nn.ReLU(), nn.Conv2d(third, fourth, 3, padding=1), nn.ReLU(),
            nn.Conv2d(fourth, fifth, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.weights = nn.ParameterList([nn.Parameter(torch.ones(width)) for width in widths])
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]), persistent=False)

    def seen(self, pixels: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b c h2 w2"]]:
        """Return the features of pictures in [-1, 1], at least 31 pixels a side, after each ReLU; at each place of length 1."""
        state, found = (pixels - self.shift[:, None, None]) / self.scale[:, None, None], []
        for layer in self.features:
            state = layer(state)
            if isinstance(layer, nn.ReLU):
                found.append(state / (state.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        return found

    def forward(self, one: Float[Tensor, "b 3 h w"], other: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """Return the distance of each pair of pictures in [-1, 1]; 0 for two that are the same."""
        return sum(
            ((mine - theirs).square() * weight[:, None, None]).sum(dim=1).mean(dim=(1, 2))
            for mine, theirs, weight in zip(self.seen(one), self.seen(other), self.weights, strict=True)
        )


def lpips_of(state: State) -> Lpips:
    """Return the model of torchvision's AlexNet and the weights of `lpips`, in one state dict under their own names.

    AlexNet's classifier plays no part.

    Raises:
        CheckpointMismatch: keys are missing, unexpected or of another shape.
    """
    named = {f"lin{number}.model.1.weight": f"weights.{number}" for number in range(len(WIDTHS))}
    own = {
        named.get(key, key): tensor.flatten() if key in named else tensor
        for key, tensor in state.items()
        if not key.startswith("classifier.")
    }
    widths = tuple(own[f"weights.{number}"].numel() for number in range(len(WIDTHS)) if f"weights.{number}" in own)
    model = Lpips(widths if len(widths) == len(WIDTHS) else WIDTHS)
    check_state("LPIPS", model.state_dict(), own)
    model.load_state_dict(own)
    return model.eval()
