"""What every way of running costs: wall time, counted FLOPs and peak memory against diffusers' own text-to-image pipeline.

    python benchmarks/speed.py [--models sdxl-shaped stickers] [--batch-sizes 1 4 8] [--ways NAME ...] [--steps 25]

All ways are run in turn within one process, `--rounds` times (once only for more than one picture), and each ratio is that of
the medians; FLOPs are counted for one picture at a time. "sdxl-shaped" has the blocks of Stable Diffusion XL at a 1/5 of its
widths and random weights, latents of 32 x 32, and a subject of 729 tokens; "two calls of the stock UNet" is what its steps cost
if each calls the UNet first with one row a picture, then with two, whatever it computes in them: on a processor a small call
costs more than its share. "stickers" is the embedded model, of which is also printed how much a faster way changes: the overlap
of its masks with those of the exact way of its kind of guidance, and the root mean square difference of the latents. Latents
are not decoded. Peak memory is the highest resident size of the process during a run (Linux). Last on each line stand the
medians of the UNet's calls by the number of rows that they were made with.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import torch
import transformers
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from realcustom import RealCustomAdapter, RealCustomPipeline, SavedSubject
from realcustom.masks import overlap
from realcustom.portrait import examine
from realcustom.vision import ImageFeatures

WORD, PROMPT = "robot", "a robot on the beach"
EXAMPLES = Path(__file__).parents[1] / "examples"

EXACT: dict[str, dict[str, Any]] = {
    "direct, mask frozen at 12": {"guidance": "direct", "mask_frozen_after": 12},
    "direct, mask never frozen": {"guidance": "direct", "mask_frozen_after": "never"},
    "cascade, mask never frozen": {"guidance": "cascade", "mask_frozen_after": "never"},
}
FROZEN, UNFROZEN, CASCADE = EXACT
FASTER: dict[str, tuple[str, dict[str, Any]]] = {
    "direct, mask of the encoder, frozen at 12": (FROZEN, {"mask_source": "encoder"}),
    "direct, previous mask, frozen at 12": (FROZEN, {"mask_source": "previous"}),
    "cascade, previous mask": (CASCADE, {"mask_source": "previous"}),
    "direct, generation's mask": (UNFROZEN, {"mask_source": "generation"}),
    "direct, frozen at 12, guided from .1 to .7": (FROZEN, {"guidance_start": 0.1, "guidance_end": 0.7}),
    "direct, generation's mask, guided from .1 to .7": (
        UNFROZEN, {"mask_source": "generation", "guidance_start": 0.1, "guidance_end": 0.7},
    ),
    "direct, frozen at 12, cache of 2": (FROZEN, {"cache_interval": 2}),
    "direct, generation's mask, cache of 3": (UNFROZEN, {"mask_source": "generation", "cache_interval": 3}),
}  # fmt: skip
"""Ways that change the picture, each with the exact one from which it differs, and in what."""


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Return the operations of attention, given the shapes of its arguments."""
    batch, heads, cells, width = query
    return 2 * batch * heads * cells * key[2] * (width + value[3])


_ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
"""What torch's counter does not know."""


@dataclass
class Way:
    """One way of running a model, and what was measured of it."""

    run: Callable[[int, int], Any]
    """Takes the number of pictures and of steps."""
    seconds: list[float] = field(default_factory=list)
    peak: float = 0.0
    flops: int = 0
    output: Any = None
    calls: dict[int, list[float]] = field(default_factory=dict)
    """Seconds of each call of the UNet, by the number of rows that it was called with."""


def subject_for(pipeline: RealCustomPipeline, tokens: int) -> SavedSubject:
    """Return a subject of random features, as if the model's encoder had seen it."""
    width = pipeline.adapter.config["feature_dim"]
    features = ImageFeatures(torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(0)))
    picture = Image.open(EXAMPLES / f"{WORD}.png")
    encoder = pipeline.subject_encoder
    return SavedSubject(features, examine(picture, encoder.side), picture, WORD, encoder.name(pipeline.adapter))


def clip_text(kind: str, words: int) -> Any:
    """Return a text encoder of half the UNet's width."""
    config = transformers.CLIPTextConfig(
        vocab_size=words, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=77, projection_dim=128, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return getattr(transformers, kind)(config).eval()


def clip_tokenizer() -> transformers.CLIPTokenizer:
    """Return a tokenizer of letters and one word."""
    pieces = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz"]
    pieces += [f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz"]
    return transformers.CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)}, merges=[], model_max_length=77
    )


def sdxl_shaped() -> tuple[RealCustomPipeline, diffusers.DiffusionPipeline, SavedSubject]:
    """Return this package's pipeline and diffusers' of a small SDXL with random weights, and a subject of 729 tokens."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=32, in_channels=4, out_channels=4, block_out_channels=(64, 128, 256), layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=[1, 2, 10],
        cross_attention_dim=256, attention_head_dim=(4, 8, 16), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=32, projection_class_embeddings_input_dim=128 + 6 * 32,
    ).eval()  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8,) * 4, down_block_types=("DownEncoderBlock2D",) * 4, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    ).eval()  # fmt: skip
    tokenizer = clip_tokenizer()
    parts = {
        "vae": vae, "unet": unet, "tokenizer": tokenizer, "tokenizer_2": tokenizer,
        "text_encoder": clip_text("CLIPTextModel", len(tokenizer)),
        "text_encoder_2": clip_text("CLIPTextModelWithProjection", len(tokenizer)),
        "scheduler": diffusers.DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False),
    }  # fmt: skip
    adapter = RealCustomAdapter.for_unet(unet, feature_dim=64, token_dim=64, scoring_dim=0)
    ours = RealCustomPipeline(**parts, adapter=adapter)
    theirs = diffusers.StableDiffusionXLPipeline(**parts, add_watermarker=False)
    return ours, theirs, subject_for(ours, 729)


def with_ip_adapter(theirs: diffusers.DiffusionPipeline) -> Callable[[int, int], Any]:
    """Load diffusers' IP-Adapter of four tokens with random weights; return what runs it. The UNet is not plain any more."""
    unet, width = theirs.unet, theirs.unet.config.cross_attention_dim
    state: dict[str, dict[str, torch.Tensor]] = {
        "image_proj": {
            "proj.weight": torch.randn(4 * width, 64) / 8, "proj.bias": torch.zeros(4 * width),
            "norm.weight": torch.ones(width), "norm.bias": torch.zeros(width),
        },
        "ip_adapter": {},
    }  # fmt: skip
    crossing = [name for name in unet.attn_processors if "attn2" in name]
    for number, name in enumerate(crossing):
        inner = unet.get_submodule(name.removesuffix(".processor")).inner_dim
        for part in ("k", "v"):
            state["ip_adapter"][f"{2 * number + 1}.to_{part}_ip.weight"] = torch.randn(inner, width) / width**0.5
    unet._load_ip_adapter_weights([state])
    seen = torch.randn(2, 1, 64)
    return lambda count, steps: theirs(
        PROMPT, num_images_per_prompt=count, num_inference_steps=steps, output_type="latent", guidance_scale=4.0,
        generator=torch.Generator().manual_seed(0), ip_adapter_image_embeds=[seen],
    )  # fmt: skip


def stickers() -> tuple[RealCustomPipeline, None, Image.Image]:
    """Return the embedded model, which no pipeline of diffusers knows, and an example's picture."""
    return RealCustomPipeline.from_pretrained("stickers"), None, Image.open(EXAMPLES / f"{WORD}.png")


def stock_calls(unet: diffusers.UNet2DConditionModel) -> Callable[[int, int], Any]:
    """Return what calls a UNet, as diffusers made it, with one and with two rows a picture in every step."""

    @torch.no_grad()
    def run(count: int, steps: int) -> None:
        for step in range(steps):
            for rows in (count, 2 * count):
                more = {"text_embeds": torch.zeros(rows, 128), "time_ids": torch.zeros(rows, 6)}
                given = torch.zeros(rows, 4, 32, 32), torch.tensor(step), torch.zeros(rows, 77, 256)
                unet(*given, added_cond_kwargs=more)

    return run


def ways_of(model: str) -> dict[str, Way]:
    """Return every way of running a model; the first is what the others are compared with."""
    ours, theirs, subject = {"sdxl-shaped": sdxl_shaped, "stickers": stickers}[model]()
    for pipeline in (ours, theirs):
        if pipeline is not None:
            pipeline.set_progress_bar_config(disable=True)

    def call(pipeline: Any, **more: Any) -> Callable[[int, int], Any]:
        return lambda count, steps: pipeline(
            PROMPT, num_images_per_prompt=count, num_inference_steps=steps, output_type="latent", guidance_scale=4.0,
            generator=torch.Generator().manual_seed(0), **more,
        )  # fmt: skip

    ways = {} if theirs is None else {"plain, by diffusers": Way(call(theirs))}
    ways["plain, by this package"] = Way(call(ours))
    chosen = {"subject_image": subject, "subject_word": WORD, "mask_scope": 0.25}
    known = EXACT | {
        name: EXACT[exact] | more
        for name, (exact, more) in FASTER.items()
        # the embedded model's mask is its decoder's, so that it has none before
        if theirs is not None or more.get("mask_source") != "encoder"
    }
    ways |= {name: Way(call(ours, **chosen, **more)) for name, more in known.items()}
    if theirs is not None:
        fresh = diffusers.StableDiffusionXLPipeline.from_pipe(theirs, unet=sdxl_shaped()[0].unet)
        fresh.set_progress_bar_config(disable=True)
        ways["two calls of the stock UNet"] = Way(stock_calls(sdxl_shaped()[0].unet))
        ways["IP-Adapter, by diffusers"] = Way(with_ip_adapter(fresh))
    return ways


@contextmanager
def timed_calls(calls: dict[int, list[float]]) -> Iterator[None]:
    """Note inside the `with` block how long each call of a UNet takes."""
    forward = diffusers.UNet2DConditionModel.forward

    def timed(unet: diffusers.UNet2DConditionModel, sample: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return forward(unet, sample, *arguments, **named)
        finally:
            calls.setdefault(len(sample), []).append(time.perf_counter() - started)

    with mock.patch.object(diffusers.UNet2DConditionModel, "forward", timed):
        yield


def reset_peak() -> bool:
    """Let the process's peak memory begin anew; return whether the system can."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_megabytes() -> float:
    """Return the process's peak memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def measure(ways: dict[str, Way], count: int, steps: int, rounds: int) -> None:
    """Run all ways in turn."""
    for way in ways.values():
        way.seconds, way.peak, way.calls = [], 0.0, {}
        if not way.flops:
            with FlopCounterMode(display=False, custom_mapping=_ON_CPU) as counter:
                way.output = way.run(1, steps)
            way.flops = counter.get_total_flops()
    for _ in range(rounds):
        for way in ways.values():
            known = reset_peak()
            started = time.perf_counter()
            with timed_calls(way.calls):
                way.run(count, steps)
            way.seconds.append(time.perf_counter() - started)
            way.peak = max(way.peak, peak_megabytes()) if known else 0.0


def changes(name: str, ways: dict[str, Way]) -> str:
    """Return how far a faster way's masks and pictures are from the exact one's of its kind, if that was run."""
    compared, _ = FASTER[name]
    if compared not in ways:
        return ""
    exact = ways[compared].output
    own = ways[name].output
    meeting = torch.stack(
        [overlap(one, (other > 0).float()) for one, other in zip(own.masks.steps, exact.masks.steps, strict=True)]
    )
    spread = float((own.images - exact.images).float().pow(2).mean().sqrt() / exact.images.float().std())
    return f"  masks overlap {float(meeting.mean()):.2f}, latents differ by {spread:.2f} standard deviations"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["sdxl-shaped", "stickers"], choices=("sdxl-shaped", "stickers"))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 4, 8])
    parser.add_argument("--ways", nargs="+", help="only those whose names hold one of these, beside the first")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    print(
        f"{options.steps} steps, float32, {torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}"
    )
    for model in options.models:
        ways = ways_of(model)
        if options.ways:
            named = [name for name in ways if any(part in name for part in options.ways)]
            ways = {name: way for name, way in ways.items() if name in named or name == next(iter(ways))}
        for count in options.batch_sizes:
            measure(ways, count, options.steps, options.rounds if count == 1 else 1)
            first = next(iter(ways.values()))
            base = statistics.median(first.seconds)
            print(f"\n{model}, {count} at a time: plain takes {base:.2f} s and {first.peak:.0f} MB")
            print(f"{'':50} {'wall':>6} {'counted':>8} {'memory':>7}")
            for name, way in ways.items():
                ratios = (statistics.median(way.seconds) / base, way.flops / first.flops, way.peak / max(first.peak, 1))
                told = changes(name, ways) if model == "stickers" and name in FASTER else ""
                told += "".join(
                    f"  {rows} rows {1000 * statistics.median(seconds):.0f} ms"
                    for rows, seconds in sorted(way.calls.items())
                )
                print(f"{name:50} {ratios[0]:6.2f} {ratios[1]:8.2f} {ratios[2]:7.2f}{told}", flush=True)


if __name__ == "__main__":
    main()
