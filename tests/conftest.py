"""Run-time shape checks for the package's code, and tiny real components that need neither network nor files."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import diffusers
import jaxtyping
import pytest
import torch
import transformers
from PIL import Image, ImageDraw

SOURCE = Path(__file__).parents[1] / "src"
SHAPED = [
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in SOURCE.rglob("*.py")
    if "\nfrom jaxtyping import " in path.read_text("utf-8")
]
"""Modules whose annotations tell shapes."""

PLAIN = (
    "attention", "errors", "files", "loading", "options", "pictures", "prompts", "convert", "customization", "finding",
    "integrity", "licenses", "versions", "subject_encoder", "saved_subject", "checks", "branches", "report",
    "training.checkpoint", "training.options",
)  # fmt: skip
"""Others whose annotations are checked at every call, too. The pipeline checks what it is given by itself."""

jaxtyping.install_import_hook([*SHAPED, *(f"realcustom.{name}" for name in PLAIN)], "checker.check")
transformers.logging.disable_progress_bar()
diffusers.logging.disable_progress_bar()
diffusers.logging.set_verbosity_error()
if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(2)

WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] a an the and dog cat cup robot toy bus pupp category ice cream on in at beach snow "
    "red wooden thing owl animal food house orange ##s ##es ##y ##ies , ."
)
SCHEDULE = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "timestep_spacing": "trailing"}


class Tiny:
    """Builders of tiny components with fixed weights."""

    def tokenizer(self, model_max_length: int = 16) -> transformers.BertTokenizerFast:
        numbers = {word: number for number, word in enumerate(WORDS.split())}
        return transformers.BertTokenizerFast(vocab=numbers, do_lower_case=True, model_max_length=model_max_length)

    def clip_tokenizer(self, length: int = 16) -> transformers.CLIPTokenizer:
        pieces = [
            "<|startoftext|>",
            "<|endoftext|>",
            *"abdegostu",
            *(f"{letter}</w>" for letter in "adgsty,"),
            "do",
            "dog</w>",
        ]
        numbers = {piece: number for number, piece in enumerate(pieces)}
        return transformers.CLIPTokenizer(vocab=numbers, merges=[("d", "o"), ("do", "g</w>")], model_max_length=length)

    def text_encoder(self, *, use_attention_mask: bool = True) -> transformers.BertModel:
        config = transformers.BertConfig(
            vocab_size=len(WORDS.split()), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=16,
        )  # fmt: skip
        config.use_attention_mask = use_attention_mask
        return self._fixed(transformers.BertModel, config)

    def unet(self, **changes: object) -> diffusers.UNet2DConditionModel:
        settings = {
            "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (32, 64),
            "down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2,
            "layers_per_block": 1, "attention_head_dim": (2, 4), "cross_attention_dim": 32, "norm_num_groups": 8,
        }  # fmt: skip
        return self._fixed(diffusers.UNet2DConditionModel, **{**settings, **changes})

    def autoencoder(self) -> diffusers.AutoencoderDC:
        return self._fixed(
            diffusers.AutoencoderDC, latent_channels=4, scaling_factor=0.7,
            encoder_block_out_channels=[8, 8, 16], encoder_layers_per_block=[0, 1, 1],
            decoder_block_out_channels=[16, 16, 32], decoder_layers_per_block=[0, 1, 1],
            encoder_qkv_multiscales=[[]] * 3, decoder_qkv_multiscales=[[]] * 3,
        )  # fmt: skip

    def autoencoder_kl(self) -> diffusers.AutoencoderKL:
        return self._fixed(
            diffusers.AutoencoderKL, latent_channels=4, block_out_channels=(8, 8, 16), norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        )  # fmt: skip

    def scheduler(self, kind: str = "DDIMScheduler") -> diffusers.SchedulerMixin:
        return getattr(diffusers, kind).from_config(diffusers.DDIMScheduler(clip_sample=False, **SCHEDULE).config)

    def adapter(self, unet: diffusers.UNet2DConditionModel, *, trained: bool = True, **config: int | float) -> object:
        """An adapter whose subject has an effect, unless it shall be as before any training."""
        from realcustom.adapter import RealCustomAdapter

        adapter = self._fixed(
            RealCustomAdapter.for_unet, unet, **{"feature_dim": 16, "token_dim": 16, "scoring_dim": 8, **config}
        )
        if trained:
            generator = torch.Generator().manual_seed(1)
            for layer in adapter.to_v.values():
                torch.nn.init.normal_(layer.weight, std=0.5, generator=generator)
        return adapter

    def clip_text_encoder(self, kind: str = "CLIPTextModel", length: int = 16) -> transformers.PreTrainedModel:
        config = transformers.CLIPTextConfig(
            vocab_size=22, hidden_size=32, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
            max_position_embeddings=length, projection_dim=32, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )  # fmt: skip
        return self._fixed(getattr(transformers, kind), config)

    def sdxl_parts(self, length: int = 16) -> dict[str, object]:
        """Components of a base with the structure of Stable Diffusion XL, by their names in diffusers' pipelines."""
        unet = self.unet(
            block_out_channels=(16, 32, 48), down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
            up_block_types=(*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"), attention_head_dim=(1, 2, 3),
            transformer_layers_per_block=(1, 1, 2), use_linear_projection=True, cross_attention_dim=64,
            addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=80,
            sample_size=16,
        )  # fmt: skip
        return {
            "vae": self.autoencoder_kl(), "text_encoder": self.clip_text_encoder(length=length),
            "text_encoder_2": self.clip_text_encoder("CLIPTextModelWithProjection", length),
            "tokenizer": self.clip_tokenizer(length), "tokenizer_2": self.clip_tokenizer(length), "unet": unet,
            "scheduler": diffusers.DDIMScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
            ),
        }  # fmt: skip

    def sd_parts(self, length: int = 16) -> dict[str, object]:
        """The same of Stable Diffusion 1.5."""
        return {
            "vae": self.autoencoder_kl(), "text_encoder": self.clip_text_encoder(length=length),
            "tokenizer": self.clip_tokenizer(length), "unet": self.unet(), "scheduler": self.sdxl_parts()["scheduler"],
        }  # fmt: skip

    def image_encoders(self) -> dict[str, transformers.PreTrainedModel]:
        """SigLIP and DINOv2 with registers, for pictures of 28 pixels and at double size."""
        shape = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
        siglip = transformers.SiglipVisionConfig(**shape, intermediate_size=32)
        siglip.vision_use_head = False
        dino = transformers.Dinov2WithRegistersConfig(**shape, mlp_ratio=2)
        return {
            "image_encoder": self._fixed(transformers.SiglipVisionModel, siglip),
            "image_encoder_2": self._fixed(transformers.Dinov2WithRegistersModel, dino),
        }  # fmt: skip

    def plus_plus_adapter(self, unet: diffusers.UNet2DConditionModel, **cross_scale: bool) -> object:
        """The RealCustom++ part for these encoders."""
        layers = {"siglip": [0, 1], "dino": [1, 2]} if cross_scale.get("shallow") else {"siglip": [1], "dino": [2]}
        width = unet.config.cross_attention_dim
        return self.adapter(
            unet, feature_dim=48, token_dim=width, scoring_dim=0, feature_layers=layers,
            cross_scale={"head_dim": 16, **cross_scale},
        )  # fmt: skip

    def pipeline(self, **changes: object) -> object:
        from realcustom.pipeline import RealCustomPipeline

        unet = self.unet()
        parts = {
            "vae": self.autoencoder(), "text_encoder": self.text_encoder(), "tokenizer": self.tokenizer(), "unet": unet,
            "scheduler": self.scheduler(), "adapter": self.adapter(unet),
            "num_inference_steps": 3, "guidance_scale": 3.0, "subject_guidance_scale": 4.0,
        }  # fmt: skip
        pipeline = RealCustomPipeline(**{**parts, **changes})
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def subject(self) -> Image.Image:
        picture = Image.new("RGB", (40, 30), "#4080c0")
        ImageDraw.Draw(picture).ellipse((8, 4, 30, 26), fill="orange")
        return picture

    @staticmethod
    def _fixed(build: object, *args: object, **kwargs: object) -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build(*args, **kwargs).eval()


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
