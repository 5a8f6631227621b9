"""The trained part of RealCustom: it owns every weight that is added to a frozen text-to-image model.

That of RC++ joins features of several layers and scales (`CrossScaleProjector`) and scores nothing.

Shapes: `b` batch, `i` image tokens of width `c_i`, `k` tokens kept, `c` width of a cross-attention layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffusers import ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from jaxtyping import Bool, Float
from torch import Tensor, nn

from realcustom.attention import View, cross_attention_layers
from realcustom.errors import InputError
from realcustom.masks import resize_mask
from realcustom.placement import initial_log_precision
from realcustom.projector import CrossScaleProjector, FeatureProjector
from realcustom.prompts import TextStates
from realcustom.scoring import ScoringModule, strongest_present, strongest_tokens

_OF_RC: dict[str, Any] = {
    "num_inference_steps": 50, "guidance_scale": 7.5, "subject_guidance_scale": 12.5, "mask_scope": 0.25,
    "final_mask_scope": 1.0, "token_ratio": 0.8, "guidance": "cascade", "mask_normalization": "max", "mask_binary": False,
    "mask_yields": False, "mask_frozen_after": "never",
}  # fmt: skip
_OF_RC_PLUS_PLUS: dict[str, Any] = {
    **_OF_RC, "num_inference_steps": 25, "guidance_scale": 3.5, "subject_guidance_scale": 3.5, "guidance": "direct",
    "mask_normalization": "min_max_per_layer", "mask_frozen_after": 12,
}  # fmt: skip
"""What the papers' authors take, for a model that says nothing itself."""


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
        cross_scale: arguments of the `CrossScaleProjector` that takes features of several layers and scales, as RC++ does.
        scoring_dim: width of the score-nets; 0 scores nothing, as RC++ does: every token acts as it is.
        score_gain: what multiplies S in `1 + S` (RC 9); 1 is the paper's. With n_i tokens S is about 1/n_i, so that
            1 hardly weights anything; n_i makes the mean weight 2.
        placed_heads: number of heads of each layer, by name, whose attention prefers tokens that lie near a cell (see
            `placement`); none as RC does.
        own_queries: project the cells to queries for the subject's tokens by weights of its own. RC shares the text's
            queries, which a well-trained base affords and a small one does not.
        feature_layers: which layers of "siglip" and "dino" the features are taken from, from 0, the deep ones last; read
            by the pipeline.
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
        cross_scale: Mapping[str, Any] | None = None,
        scoring_dim: int = 128,
        score_gain: float = 1.0,
        own_queries: bool = False,
        placed_heads: Mapping[str, int] | None = None,
        feature_layers: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.projector: FeatureProjector | CrossScaleProjector | None = None
        if cross_scale is not None:
            self.projector = CrossScaleProjector(feature_dim, token_dim, **cross_scale)
        elif projector_depth:
            self.projector = FeatureProjector(feature_dim, token_dim, projector_depth, projector_grid)
        self.scoring = ScoringModule(text_dim, latent_channels, token_dim, scoring_dim) if scoring_dim else None
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
    def for_unet(cls, unet: UNet2DConditionModel, *, placed: bool = False, **config: Any) -> RealCustomAdapter:
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

    def finer(self) -> RealCustomAdapter:
        """Return an adapter with four tokens for each of this one's, to be trained further; see `FeatureProjector.finer`.

        Its tokens lie half as far apart, so that its heads reach half as far.

        Raises:
            InputError: its features are no patches of latents.
        """
        if not isinstance(self.projector, FeatureProjector):
            raise InputError("only an adapter whose features are patches of latents can be made finer")
        config = {name: value for name, value in self.config.items() if not name.startswith("_")}
        finer = RealCustomAdapter(
            **{
                **config,
                "feature_dim": config["feature_dim"] // 4,
                "projector_grid": 2 * config["projector_grid"],
                "score_gain": 4 * config["score_gain"],
            }
        )
        projector = {f"projector.{name}": value for name, value in self.projector.finer().state_dict().items()}
        finer.load_state_dict({**self.state_dict(), **projector})
        for log_precision in finer.log_precisions.values():
            log_precision.data += 2 * math.log(2)
        return finer

    def as_image_prompt(self) -> RealCustomAdapter:
        """Return an adapter of the same weights that neither scores nor places its tokens, to be trained further.

        All features of a subject act alike everywhere, as IP-Adapter has it (Ye et al., 2023).
        """
        config = {name: value for name, value in self.config.items() if not name.startswith("_")}
        plain = RealCustomAdapter(**{**config, "scoring_dim": 0, "placed_heads": None})
        kept = plain.state_dict().keys()
        plain.load_state_dict({name: weight for name, weight in self.state_dict().items() if name in kept})
        return plain

    def forward(
        self,
        features: Float[Tensor, "b i c_f"],
        text: TextStates,
        latents: Float[Tensor, "b c h w"],
        alpha: Float[Tensor, " b"],
        *,
        token_ratio: float,
        positions: Float[Tensor, "b i 2"] | None = None,
        more: Sequence[Any] = (),
    ) -> View:
        """Return what the UNet's layers attend to, from image features in one go, as training needs it (RC 4-10)."""
        tokens = self.tokens(features, *more)
        return self.act(
            tokens, self.keys_values(tokens), text, latents, alpha, token_ratio=token_ratio, positions=positions
        )

    def tokens(self, features: Float[Tensor, "b i c_f"], *more: Any) -> Float[Tensor, "b k c_i"]:
        """Return the subject's tokens f_ci of its image features; once a subject.

        `more` are the features that a `CrossScaleProjector` joins with the deep ones: local, and those of shallow layers.
        """
        return features if self.projector is None else self.projector(features, *more)

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
        mask: Float[Tensor, "b h_m w_m"] | None = None,
        present: Bool[Tensor, "b i"] | None = None,
        positions: Float[Tensor, "b i 2"] | None = None,
    ) -> View:
        """Score the subject's tokens for one step and return what the UNet's layers attend to (RC 5-10).

        Args:
            tokens: of `tokens`.
            keys_values: of `keys_values`.
            text: states of the prompt.
            latents: z_t as the UNet receives it, not yet masked.
            alpha: a_t of each sample.
            token_ratio: gamma_num, the share of the tokens to keep, in (0, 1].
            mask: M_hat, on the latent's grid or a coarser one: where the latent counts for the scores; everywhere if not given.
            present: which tokens show the picture of the subject and not its padding; all if not given.
            positions: where the tokens lie in the new picture; only used by an adapter that places them.
        """
        weights, kept = None, None
        if self.scoring is not None:
            on_latent = None if mask is None else resize_mask(mask, (latents.shape[2], latents.shape[3]))
            weights, kept, present = self._score(
                self.scoring, tokens, text, latents, alpha, token_ratio, on_latent, present
            )
        return View(
            keys_values=keys_values,
            weights=weights,
            kept=kept,
            present=present,
            positions=positions,
            precisions=(
                {name: self.log_precisions[_key(name)].exp() for name in self.config["layers"]}
                if self.log_precisions
                else None
            ),
            to_q={name: self.to_q[_key(name)] for name in self.config["layers"]} if self.to_q else None,
        )

    def _score(
        self,
        scoring: ScoringModule,
        tokens: Tensor,
        text: TextStates,
        latents: Tensor,
        alpha: Tensor,
        token_ratio: float,
        mask: Tensor | None,
        present: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the tokens' weights (RC 9), and those that act (RC 10): by number, or True for each if some are absent."""
        scores = scoring(text.states, latents, tokens, alpha, text_keep=text.keep, image_keep=present, mask=mask)
        gain = self.config["score_gain"]
        if present is None:
            return 1 + gain * scores, strongest_tokens(scores.detach(), token_ratio=token_ratio), None
        # Of each sample another number acts, so they cannot be gathered. Scores are as high as those of a full square.
        scores = scores * present.float().mean(dim=1, keepdim=True)
        return 1 + gain * scores, None, strongest_present(scores.detach(), present, token_ratio=token_ratio)


def _key(layer: str) -> str:
    """A layer's name where PyTorch allows no dots."""
    return layer.replace(".", "-")


def defaults_of(adapter: RealCustomAdapter | None) -> dict[str, Any]:
    """Return what the authors of the paper take that an adapter follows: RC's are scored, RC++'s are not."""
    return dict(_OF_RC if adapter is None or adapter.scoring is not None else _OF_RC_PLUS_PLUS)
