"""Cross-attention with a subject: one processor for stock diffusers UNets, and what one UNet call reads and records.

Shapes: `b` batch, `n` heads, `q` latent cells, `t` text tokens, `s` subject tokens, `d` head width, `c = n d`, `h w` grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor, nn

from realcustom.errors import InputError
from realcustom.masks import resize_mask
from realcustom.placement import grid_centres, nearness

CALLED = ("down_blocks", "mid_block", "up_blocks")
"""Beginnings of the names of a UNet's layers, in the order in which it calls them."""


@dataclass(frozen=True)
class View:
    """One picture of a subject as the UNet call at hand sees it."""

    keys_values: Mapping[str, tuple[Tensor, Tensor]]
    """For each cross-attention layer the keys and values `[b, s, c]` of all image tokens (RC 4)."""
    weights: Tensor | None = None
    """`[b, s]`, what each token's key and value is multiplied with (RC 9)."""
    kept: Tensor | None = None
    """`[b, k]`, the tokens that take part (RC 10)."""
    present: Tensor | None = None
    """`[b, s]`, True for the tokens that may take part, False for padding of the reference; all of them if None."""
    positions: Tensor | None = None
    """`[b, s, 2]`, where the tokens lie in the new picture; nowhere in particular if None."""
    precisions: Mapping[str, Tensor] | None = None
    """For each cross-attention layer and head `[n]`, how much nearness counts; read where there are positions."""
    to_q: Mapping[str, nn.Module] | None = None
    """For each cross-attention layer the subject's own query projection; the text's queries are shared if None (RC 4)."""
    share: float = 1.0
    """How much this picture counts beside others of the same subject, above 0: what each of its tokens is worth."""

    def layer(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the keys and values `[b, k, c]` that act in layer `name`: weighted and selected (RC 9, 10)."""
        keys, values = self.keys_values[name]
        keys, values = self._kept(keys), self._kept(values)
        if self.weights is None:
            return keys, values
        weights = self._kept(self.weights)[..., None]
        return keys * weights, values * weights

    def count(self, name: str) -> int:
        """Return how many tokens act in layer `name`."""
        return (self.keys_values[name][0] if self.kept is None else self.kept).shape[1]

    def bias(self, name: str, grid: tuple[int, int], cells: Tensor | None = None) -> Tensor | None:
        """Return what is added to the logits of layer `name`, as `[b, n, q, k]` broadcasts; None if that is nothing.

        Args:
            name: of the layer.
            grid: its height and width.
            cells: `[b, q]`, numbers of the cells that attend; all of the grid if None.

        Near tokens are preferred where tokens have places, padding is never attended to, and a token that is worth s times
        as much as another is attended to as if it were there s times.
        """
        bias = None if self.share == 1 else torch.full((1, 1, 1, 1), math.log(self.share))
        if self.positions is not None and self.precisions is not None:
            centres = grid_centres(*grid).to(self.positions)
            centres = centres[None] if cells is None else centres[cells]
            near = nearness(self._kept(self.positions), centres, self.precisions[name])
            bias = near if bias is None else near + bias.to(near)
        if self.present is not None:
            absent = rearrange(~self._kept(self.present), "b k -> b 1 1 k")
            bias = torch.zeros((), device=absent.device) if bias is None else bias.to(absent.device)
            bias = torch.where(absent, -torch.inf, bias)
        return bias

    def _kept(self, tokens: Tensor) -> Tensor:
        """Return those of `[b, s, ...]` that take part."""
        if self.kept is None:
            return tokens
        return _taken(tokens, self.kept)


@dataclass(frozen=True)
class Reach:
    """The cells of one layer's grid in which a subject acts, and how strongly; elsewhere it adds nothing."""

    weights: Tensor
    """`[b, k, 1]`, above 0 in the cells in which it acts."""
    cells: Tensor | None = None
    """`[b, k]`, their numbers; if a sample has fewer than another, other cells of weight 0 follow. All of the grid if None."""

    @classmethod
    def of(cls, mask: Tensor) -> Reach:
        """Return the reach of a mask `[b, h, w]` on the layer's grid."""
        weights = mask.flatten(1)
        count = max(1, int(weights.gt(0).sum(dim=1).max()))
        if count == weights.shape[1]:
            return cls(weights[..., None])
        strongest, cells = weights.topk(count, dim=1)
        return cls(strongest[..., None], cells)

    def gather(self, tensor: Tensor) -> Tensor:
        """Return what `[b, q, c]` holds in these cells, `[b, k, c]`."""
        return tensor if self.cells is None else _taken(tensor, self.cells)

    def scatter(self, tensor: Tensor, count: int) -> Tensor:
        """Return `[b, count, c]` that holds `[b, k, c]`, weighted, in these cells and 0 in all others."""
        weighted = tensor * self.weights.to(tensor)
        if self.cells is None:
            return weighted
        rows = self.cells[..., None].expand_as(weighted)
        return weighted.new_zeros(len(weighted), count, weighted.shape[2]).scatter(1, rows, weighted)


@dataclass(frozen=True)
class Influence:
    """One subject in the UNet call at hand: its pictures, and where and how strongly they act together."""

    views: Sequence[View]
    """Of the same samples, which are the last of the call's; attention chooses among the tokens of all of them."""
    mask: Tensor | None = None
    """`[b, h, w]` in [0, 1], where the subject may act (RC 12); everywhere if None."""
    scale: Tensor | None = None
    """`[b]`, what each sample's contribution is multiplied with; 1 if None."""
    _reaches: dict[tuple[Any, ...], Reach] = field(default_factory=dict, repr=False, compare=False)

    def reach(self, grid: tuple[int, int], resize: Callable[[Tensor, tuple[int, int]], Tensor]) -> Reach | None:
        """Return where it acts in the layers of a grid, everywhere if None; found once for all of them."""
        if self.mask is None:
            return None
        key = (grid, resize)
        if key not in self._reaches:
            self._reaches[key] = Reach.of(resize(self.mask, grid))
        return self._reaches[key]

    def layer(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the keys and values `[b, k, c]` of all its pictures that act in layer `name`."""
        keys, values = zip(*(view.layer(name) for view in self.views), strict=True)
        return _joined(keys), _joined(values)

    def bias(self, name: str, grid: tuple[int, int], cells: Tensor | None = None) -> Tensor | None:
        """Return what is added to the logits of layer `name`, see `View.bias`."""
        biases = [view.bias(name, grid, cells) for view in self.views]
        if len(biases) == 1 or all(bias is None for bias in biases):
            return biases[0]
        like = self.views[0].keys_values[name][0]
        filled = [like.new_zeros(1, 1, 1, 1) if bias is None else bias.to(like) for bias in biases]
        outer = torch.broadcast_shapes(*(bias.shape[:-1] for bias in filled))
        counts = [view.count(name) for view in self.views]
        return torch.cat([bias.expand(*outer, count) for bias, count in zip(filled, counts, strict=True)], dim=-1)


def _taken(tensor: Tensor, rows: Tensor) -> Tensor:
    """Return the rows `[b, k]` of `[b, n, ...]`, `[b, k, ...]`."""
    samples = torch.arange(len(rows), device=rows.device)[:, None]
    return tensor[samples, rows]  # whole rows are copied, several times as fast as a gather of their numbers


def _joined(tokens: Sequence[Tensor]) -> Tensor:
    return tokens[0] if len(tokens) == 1 else torch.cat(list(tokens), dim=1)


@dataclass
class AttentionTap:
    """What the processors of one UNet read and record; one denoising loop at a time may use it."""

    latent_size: tuple[int, int] = (0, 0)
    """Height and width of the latent, from which each layer's grid follows."""
    subjects: Sequence[Influence] = ()
    """Subjects that act in the next call; with none, every layer is the stock one."""
    word: Tensor | None = None
    """`[r, t]`, or `[r, t, s]` for several words: 1 on the tokens of the target word for the last `r` samples of the batch, or
    those before the `rows_after` last ones; None records nothing."""
    rows_after: int = 0
    """How many samples of the batch come after those that are recorded."""
    watched: Sequence[str] = ()
    """Beginnings of the names of the layers that record; all of them if there are none."""
    maps: dict[str, Tensor] = field(default_factory=dict)
    """Recorded for each layer: `[r, h, w]`, or `[r, h, w, s]` for several words, mean over heads and sum over a word's
    tokens."""
    spread_grid: tuple[int, int] | None = None
    """Height and width of the self-attention layers that are recorded, too; none are if None."""
    self_attention: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Recorded with the word for each self-attention layer on that grid: queries and keys `[r, n, q, d]`."""
    strengths: dict[str, Tensor] | None = None
    """Recorded for each layer if not None: the root mean square of each subject's contribution over the text's, `[s, b]`."""
    resize: Callable[[Tensor, tuple[int, int]], Tensor] = resize_mask
    """Brings a mask to a layer's grid."""
    text_cache: dict[str, list[tuple[Tensor, Tensor, Tensor]]] | None = None
    """If not None: the prompt's keys and values for each layer, so that they are computed once a prompt."""

    def grid(self, cells: int) -> tuple[int, int]:
        """Return the height and width of a layer with `cells` cells.

        Raises:
            InputError: no halving of the latent has so many cells.
        """
        height, width = self.latent_size
        while height * width > cells:
            height, width = -(-height // 2), -(-width // 2)
        if height * width != cells:
            raise InputError(f"a layer of {cells} cells does not belong to a latent of {self.latent_size}")
        return height, width

    def recording(self, unet: UNet2DConditionModel) -> list[str]:
        """Return the names of the layers that record, in the order in which the UNet calls them."""
        watched = tuple(self.watched) or ""
        cross = cross_attention_layers(unet)
        every = [name.removesuffix(".processor") for name in unet.attn_processors]
        names = [
            name for name in every if (name.startswith(watched) if name in cross else self.spread_grid is not None)
        ]
        return sorted(names, key=lambda name: CALLED.index(name.split(".")[0]))

    def watched_rows(self, batch: int) -> slice:
        """Return which samples of a batch are recorded."""
        assert self.word is not None
        last = batch - self.rows_after
        return slice(last - len(self.word), last)

    def own_attention(self, grid: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
        """Return the recorded queries and keys of the self-attention layers on one grid.

        Raises:
            InputError: the UNet has none there.
        """
        cells = grid[0] * grid[1]
        found = [pair for pair in self.self_attention.values() if pair[0].shape[2] == cells]
        if not found:
            raise InputError(f"no self-attention layer lies on the mask's grid of {grid}; take mask_refined=False")
        return found

    def text_keys_values(self, name: str, attn: Attention, text: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values `[b, t, c]` of the text, from the cache where it holds this very tensor."""
        entries = [] if self.text_cache is None else self.text_cache.setdefault(name, [])
        for known, keys, values in entries:
            if known is text:
                return keys, values
        normed = attn.norm_encoder_hidden_states(text) if attn.norm_cross else text
        entries.append((text, attn.to_k(normed), attn.to_v(normed)))
        return entries[-1][1:]


class SubjectAttnProcessor:
    """Text cross-attention plus the subjects' masked cross-attention (RC 4, 12).

    A plain object that owns no weights, so that the UNet stays as it was. Without subjects it computes exactly what
    diffusers' own `AttnProcessor2_0` computes.
    """

    def __init__(self, name: str, tap: AttentionTap) -> None:
        self.name, self.tap = name, tap

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Return the layer's output, of the shape of `hidden_states`."""
        residual, shape = hidden_states, hidden_states.shape
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        if len(shape) == 4:
            hidden_states = rearrange(hidden_states, "b c h w -> b (h w) c")
        output = self._cross_attend(attn, hidden_states, encoder_hidden_states, attention_mask)
        output = attn.to_out[1](attn.to_out[0](output))
        if len(shape) == 4:
            output = rearrange(output, "b (h w) c -> b c h w", h=shape[2])
        if attn.residual_connection:
            output = output + residual
        return output / attn.rescale_output_factor

    def _cross_attend(
        self, attn: Attention, cells: Tensor, text: Tensor | None, attention_mask: Tensor | None
    ) -> Tensor:
        """Return the attention of the cells `[b, q, c]` to the text and to the subjects, before the output projection."""
        if attn.group_norm is not None:
            cells = rearrange(attn.group_norm(rearrange(cells, "b q c -> b c q")), "b c q -> b q c")
        text = cells if text is None else text
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, text.shape[1], text.shape[0])
            attention_mask = rearrange(attention_mask, "(b n) q t -> b n q t", n=attn.heads)
        query, (key, value) = attn.to_q(cells), self.tap.text_keys_values(self.name, attn, text)
        query, key, value = (_split_heads(tensor, attn.heads) for tensor in (query, key, value))
        if attn.norm_q is not None:
            query = attn.norm_q(query)
        if attn.norm_k is not None:
            key = attn.norm_k(key)
        if self.tap.word is not None and self.name.startswith(tuple(self.tap.watched) or ""):
            self._record(query, key, attention_mask, self.tap.word)
        output = _join_heads(F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask))
        if self.tap.subjects:
            output = self._add_subjects(attn, output, cells, _join_heads(query))
        return output.to(query.dtype)

    def _add_subjects(self, attn: Attention, output: Tensor, cells: Tensor, query: Tensor) -> Tensor:
        """Return the text's contribution `[b, q, c]` and, for the last samples, the subjects' (RC 12)."""
        acting = len(self.tap.subjects[0].views[0].keys_values[self.name][0])
        textual, before = output[-acting:], output[:-acting]
        visual = [self._attend(attn, cells[-acting:], query[-acting:], subject) for subject in self.tap.subjects]
        if self.tap.strengths is not None:
            self.tap.strengths[self.name] = torch.stack([_magnitude(one) / _magnitude(textual) for one in visual])
        customized = sum(visual, textual)
        return torch.cat([before, customized]) if len(before) else customized

    def _record(self, query: Tensor, key: Tensor, attention_mask: Tensor | None, word: Tensor) -> None:
        """Keep the word's column of the attention map of the last samples; the map itself is dropped at once."""
        rows = self.tap.watched_rows(len(query))
        query, key = query[rows], key[rows]
        logits = torch.einsum(
            "bnqd,bntd->bnqt", query * query.shape[-1] ** -0.5, key
        )  # scaled first: float16 is narrow
        if attention_mask is not None:
            logits = logits + attention_mask[rows]
        words = word.float().view(len(word), 1, word.shape[1], -1)
        columns = (logits.float().softmax(dim=-1) @ words).mean(dim=1)
        height, width = self.tap.grid(query.shape[2])
        self.tap.maps[self.name] = columns.view(len(word), height, width, *word.shape[2:])

    def _attend(self, attn: Attention, cells: Tensor, query: Tensor, subject: Influence) -> Tensor:
        """Return one subject's contribution `[b, q, c]`: its attention, masked (RC 4, 12).

        Args:
            attn: the layer.
            cells: `[b, q, c]`, what the layer is called with.
            query: `[b, q, c]`, its own queries.
            subject: acts. Cells in which it does not act are not asked what it looks like there.
        """
        grid, own = self.tap.grid(cells.shape[1]), subject.views[0].to_q
        reach = subject.reach(grid, self.tap.resize)
        asked = query if own is None else cells
        asked = asked if reach is None else reach.gather(asked)
        asked = asked if own is None else own[self.name](asked)
        asked = _split_heads(asked, attn.heads)
        key, value = (_split_heads(tensor.to(asked.dtype), attn.heads) for tensor in subject.layer(self.name))
        bias = subject.bias(self.name, grid, None if reach is None else reach.cells)
        bias = None if bias is None else bias.to(asked.dtype)
        visual = _join_heads(F.scaled_dot_product_attention(asked, key, value, attn_mask=bias))
        visual = visual if reach is None else reach.scatter(visual, cells.shape[1])
        return visual if subject.scale is None else visual * rearrange(subject.scale, "b -> b 1 1").to(visual.dtype)


class SelfAttnProcessor:
    """A layer's own processor of self-attention, beside which queries and keys are recorded with the word if that is asked."""

    def __init__(self, name: str, tap: AttentionTap, own: Any) -> None:
        self.name, self.tap, self.own = name, tap, own
        # diffusers hands a processor those of its keyword arguments that the signature of `__call__` names.
        self.__call__ = wraps(own.__call__)(partial(type(self).__call__, self))  # type: ignore[method-assign]

    def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's output, of the shape of `hidden_states`."""
        grid = self.tap.spread_grid
        if self.tap.word is not None and grid is not None and hidden_states.shape[1] == grid[0] * grid[1]:
            cells = hidden_states[self.tap.watched_rows(len(hidden_states))]
            self.tap.self_attention[self.name] = (
                _split_heads(attn.to_q(cells), attn.heads), _split_heads(attn.to_k(cells), attn.heads)
            )  # fmt: skip
        return self.own(attn, hidden_states, *args, **kwargs)


def _split_heads(tensor: Tensor, heads: int) -> Tensor:
    return rearrange(tensor, "b m (n d) -> b n m d", n=heads)


def _join_heads(tensor: Tensor) -> Tensor:
    return rearrange(tensor, "b n m d -> b m (n d)")


def _magnitude(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(tensor.detach(), dim=(1, 2), dtype=torch.float32)


def cross_attention_layers(unet: UNet2DConditionModel) -> dict[str, Attention]:
    """Return the UNet's cross-attention layers by name, in the order of registration."""
    layers = {name.removesuffix(".processor"): None for name in unet.attn_processors}
    modules = ((name, unet.get_submodule(name)) for name in layers)
    return {name: module for name, module in modules if isinstance(module, Attention) and module.is_cross_attention}


def attention_grid(unet: UNet2DConditionModel, latent_size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of the finest cross-attention layers for a latent of the given size."""
    deepest = len(unet.config.block_out_channels) - 1
    levels = []
    for name in cross_attention_layers(unet):
        kind, number = name.split(".")[:2]
        level = {"down_blocks": int(number), "up_blocks": deepest - int(number)} if number.isdigit() else {}
        levels.append(level.get(kind, deepest))
    height, width = latent_size
    for _ in range(min(levels)):
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def tapped_processors(unet: UNet2DConditionModel, tap: AttentionTap, *, self_attention: bool) -> dict[str, Any]:
    """Return a processor for every layer of a UNet: cross-attention's on a tap, and self-attention's if it is asked for."""
    processors: dict[str, Any] = {}
    cross = cross_attention_layers(unet)
    for key, own in unet.attn_processors.items():
        name = key.removesuffix(".processor")
        if name in cross:
            processors[key] = SubjectAttnProcessor(name, tap)
        else:
            own = own.own if isinstance(own, SelfAttnProcessor) else own
            processors[key] = SelfAttnProcessor(name, tap, own) if self_attention else own
    return processors


@contextmanager
def attached(unet: UNet2DConditionModel, *, self_attention: bool = False) -> Iterator[AttentionTap]:
    """Let a tap read and feed the UNet's cross-attention inside the `with` block, and read its self-attention if asked to.

    Other layers keep their processors. On leaving, also by an exception, every layer has the very processor object that it
    had before.
    """
    before, tap = dict(unet.attn_processors), AttentionTap()
    unet.set_attn_processor(tapped_processors(unet, tap, self_attention=self_attention))
    try:
        yield tap
    finally:
        unet.set_attn_processor(before)
