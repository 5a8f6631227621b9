"""The trained part of RealCustom: it owns every weight that is added to a frozen text-to-image model.

Shapes: `b` batch, `i` image tokens of width `c_i`, `k` tokens kept, `c` width of a cross-attention layer.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers import ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from jaxtyping import Bool, Float
from torch import Tensor, nn

from realcustom.attention import Subject, cross_attention_layers
from realcustom.placement import initial_log_precision
from realcustom.projector import FeatureProjector
from realcustom.prompts import TextStates
from realcustom.scoring import ScoringModule, strongest_present, strongest_tokens


class RealCustomAdapter(ModelMixin, ConfigMixin):
    """Scoring module, and for every cross-attention layer keys and values for image features (RC 4-10).

    Args:
        layers: width of each cross-attention layer of the UNet, by name.
        text_dim: width of the text encoder's states.
        latent_channels: channels of the UNet's input.
        feature_dim: width of the image features that come in.
        token_dim: c_i, width of the image tokens that are scored and attended to.
        projector_depth: transformer layers between features and tokens; 0 takes the features as they are, as RC does.
        projector_grid: side of the square grid of the image features; only read by the projector.
        scoring_dim: width of the score-nets.
        score_gain: what multiplies S in `1 + S` (RC 9); 1 is the paper's. With n_i tokens S is about 1/n_i, so that
            1 hardly weights anything; n_i makes the mean weight 2.
        placed_heads: number of heads of each layer, by name, whose attention prefers tokens that lie near a cell (see
            `placement`); none as RC does.
        own_queries: project the cells to queries for the subject's tokens by weights of its own. RC shares the text's
            queries, which a well-trained base affords and a small one does not.
    """

    @register_to_config
    def __init__(
        self,
        layers: Mapping[str, int],
        text_dim: int,
        latent_channels: int,
        feature_dim: int,
        token_dim: int,
        projector_depth: int = 0,
        projector_grid: int = 8,
        scoring_dim: int = 128,
        score_gain: float = 1.0,
        own_queries: bool = False,
        placed_heads: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.projector = (
            FeatureProjector(feature_dim, token_dim, projector_depth, projector_grid) if projector_depth else None
        )
        self.scoring = ScoringModule(text_dim, latent_channels, token_dim, scoring_dim)
        self.to_k = nn.ModuleDict(
            {_key(name): nn.Linear(token_dim, width, bias=False) for name, width in layers.items()}
        )
        self.to_v = nn.ModuleDict(
            {_key(name): nn.Linear(token_dim, width, bias=False) for name, width in layers.items()}
        )
        self.to_q = nn.ModuleDict(
            {_key(name): nn.Linear(width, width, bias=False) for name, width in layers.items() if own_queries}
        )
        self.log_precisions = nn.ParameterDict(
            {_key(name): initial_log_precision(heads) for name, heads in (placed_heads or {}).items()}
        )
        for weight in self.to_v.parameters():
            nn.init.zeros_(weight)  # the base's own pictures at the start of training

    @classmethod
    def for_unet(cls, unet: UNet2DConditionModel, *, placed: bool = False, **config: int | float) -> RealCustomAdapter:
        """Return an untrained adapter that fits a UNet; `config` are the other arguments of the class.

        Queries of its own start as copies of the text's. With `placed`, attention prefers tokens near each cell.
        """
        modules = cross_attention_layers(unet)
        layers = {name: layer.inner_dim for name, layer in modules.items()}
        fixed = {"text_dim": unet.config.cross_attention_dim, "latent_channels": unet.config.in_channels}
        heads = {name: layer.heads for name, layer in modules.items()} if placed else None
        adapter = cls(layers=layers, placed_heads=heads, **{**fixed, **config})
        for name, layer in modules.items():
            if _key(name) in adapter.to_q:
                adapter.to_q[_key(name)].weight.data.copy_(layer.to_q.weight)
        return adapter

    def forward(
        self,
        features: Float[Tensor, "b i c_f"],
        text: TextStates,
        latents: Float[Tensor, "b c h w"],
        alpha: Float[Tensor, " b"],
        *,
        token_ratio: float,
        positions: Float[Tensor, "b i 2"] | None = None,
    ) -> Subject:
        """Return what the UNet's layers attend to, from image features in one go, as training needs it (RC 4-10)."""
        tokens = self.tokens(features)
        return self.act(
            tokens, self.keys_values(tokens), text, latents, alpha, token_ratio=token_ratio, positions=positions
        )

    def tokens(self, features: Float[Tensor, "b i c_f"]) -> Float[Tensor, "b i c_i"]:
        """Return the subject's tokens f_ci of its image features; once a subject."""
        return features if self.projector is None else self.projector(features)

    def keys_values(self, tokens: Float[Tensor, "b i c_i"]) -> dict[str, tuple[Tensor, Tensor]]:
        """Return K_i and V_i `[b, i, c]` of every cross-attention layer (RC 4); once a subject.

        The projections have no bias, so that weighting and selecting tokens (RC 9, 10) commutes with them.
        """
        return {name: (self.to_k[_key(name)](tokens), self.to_v[_key(name)](tokens)) for name in self.config["layers"]}

    def act(
        self,
        tokens: Float[Tensor, "b i c_i"],
        keys_values: Mapping[str, tuple[Tensor, Tensor]],
        text: TextStates,
        latents: Float[Tensor, "b c h w"],
        alpha: Float[Tensor, " b"],
        *,
        token_ratio: float,
        mask: Float[Tensor, "b h w"] | None = None,
        scale: Float[Tensor, " b"] | None = None,
        present: Bool[Tensor, "b i"] | None = None,
        positions: Float[Tensor, "b i 2"] | None = None,
    ) -> Subject:
        """Score the subject's tokens for one step and return what the UNet's layers attend to (RC 5-10, 12).

        Args:
            tokens: of `tokens`.
            keys_values: of `keys_values`.
            text: states of the prompt.
            latents: z_t as the UNet receives it, not yet masked.
            alpha: a_t of each sample.
            token_ratio: gamma_num, the share of the tokens to keep, in (0, 1].
            mask: M_hat on the latent's grid; everywhere if not given.
            scale: multiplies each sample's contribution; 1 is the paper's.
            present: which tokens show the picture of the subject and not its padding; all if not given.
            positions: where the tokens lie in the new picture; only used by an adapter that places them.
        """
        scores = self.scoring(text.states, latents, tokens, alpha, text_keep=text.keep, image_keep=present, mask=mask)
        kept = None
        if present is None:
            kept = strongest_tokens(scores.detach(), token_ratio=token_ratio)
        else:  # of each sample another number, so that they cannot be gathered; scores as high as those of a full square
            scores = scores * present.float().mean(dim=1, keepdim=True)
            present = strongest_present(scores.detach(), present, token_ratio=token_ratio)
        return Subject(
            keys_values=keys_values,
            weights=1 + self.config["score_gain"] * scores,
            kept=kept,
            mask=mask,
            scale=scale,
            present=present,
            positions=positions,
            precisions=(
                {name: self.log_precisions[_key(name)].exp() for name in self.config["layers"]}
                if self.log_precisions
                else None
            ),
            to_q={name: self.to_q[_key(name)] for name in self.config["layers"]} if self.to_q else None,
        )


def _key(layer: str) -> str:
    """A layer's name where PyTorch allows no dots."""
    return layer.replace(".", "-")


def alpha_at(alphas_cumprod: Float[Tensor, " T"], timestep: Tensor) -> Float[Tensor, ""]:
    """Return a_t, the square root of the schedule's cumulative product (RC 8), between its steps if `timestep` is."""
    position = timestep.detach().float().cpu().clamp(0, len(alphas_cumprod) - 1)
    below = position.floor().long()
    above = (below + 1).clamp(max=len(alphas_cumprod) - 1)
    return torch.lerp(alphas_cumprod[below].float(), alphas_cumprod[above].float(), position - below).sqrt()
