"""Stable Diffusion 1.5 and XL as bases, and RealCustom++ on them, by real classes at small sizes."""

from __future__ import annotations

from pathlib import Path

import accelerate
import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image

from realcustom.apps.cli import main
from realcustom.errors import InputError
from realcustom.finding import Place
from realcustom.latents import to_latents, to_pixels
from realcustom.painting import Painter, Source
from realcustom.pipeline import RealCustomPipeline
from realcustom.provenance import PictureSettings
from realcustom.vision import twin_features

PROMPT = "a dog, too"
SIDE = 64


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def noise(height=SIDE, width=SIDE, seed=3):
    return torch.randn(1, 4, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def xl(tiny):
    return tiny.sdxl_parts()


@pytest.fixture(scope="module")
def sd(tiny):
    return tiny.sd_parts()


@pytest.fixture(scope="module")
def plus_plus(tiny, xl):
    """RealCustom++ on a base like SDXL."""
    return quiet(RealCustomPipeline(**xl, adapter=tiny.plus_plus_adapter(xl["unet"]), **tiny.image_encoders()))


@pytest.fixture(scope="module")
def subject(tiny):
    return tiny.subject()


class TestPlain:
    """Without a subject a pipeline is diffusers' own of the same base."""

    @pytest.mark.parametrize("negative_prompt", [None, "", "goo"])
    @pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 48)])
    def test_sdxl(self, xl, negative_prompt, height, width):
        stock = quiet(diffusers.StableDiffusionXLPipeline(**xl, add_watermarker=False))
        shared = {
            "prompt": PROMPT, "negative_prompt": negative_prompt, "height": height, "width": width, "guidance_scale": 5.0,
            "num_inference_steps": 3, "latents": noise(height, width), "output_type": "latent",
        }  # fmt: skip
        expected = stock(**shared).images
        torch.testing.assert_close(quiet(RealCustomPipeline(**xl))(**shared).images, expected, atol=1e-4, rtol=1e-4)

    def test_sd(self, sd):
        stock = quiet(
            diffusers.StableDiffusionPipeline(
                **sd, safety_checker=None, feature_extractor=None, requires_safety_checker=False
            )
        )
        shared = {
            "prompt": PROMPT, "guidance_scale": 5.0, "num_inference_steps": 3, "latents": noise(32, 32),
            "output_type": "latent",
        }  # fmt: skip
        expected = stock(**shared).images
        torch.testing.assert_close(quiet(RealCustomPipeline(**sd))(**shared).images, expected, atol=1e-4, rtol=1e-4)


def call(pipeline, subject, **changes):
    arguments = {"num_inference_steps": 3, "latents": noise(), "output_type": "latent"}
    return pipeline(PROMPT, subject, "dog", **{**arguments, **changes})


class TestPlusPlus:
    def test_the_papers_defaults(self, plus_plus):
        own = plus_plus.defaults
        assert (own["guidance"], own["guidance_scale"], own["num_inference_steps"]) == ("direct", 3.5, 25)
        assert (own["mask_normalization"], own["mask_frozen_after"], own["mask_scope"]) == (
            "min_max_per_layer",
            12,
            0.25,
        )
        assert (own["final_mask_scope"], own["token_ratio"]) == (1.0, 0.8)

    def test_the_subject_acts_in_its_mask_on_the_finest_attention_grid(self, plus_plus, subject):
        output = call(plus_plus, subject)
        assert output.masks.steps.shape == (3, 1, 8, 8)
        assert output.report.subjects[0].words[0].text == "dog"
        assert all(step[0] > 0 for step in output.report.subjects[0].visual_to_textual)
        assert not torch.allclose(output.images, call(plus_plus, subject, subject_scale=0).images, atol=1e-3)

    def test_without_influence_it_is_the_plain_picture_bit_for_bit(self, plus_plus, subject):
        shared = {"num_inference_steps": 3, "latents": noise(), "output_type": "latent"}
        plain = plus_plus(PROMPT, **shared).images
        for nothing in ({"subject_scale": 0}, {"mask": torch.zeros(8, 8)}, {"mask_scope": 0}):
            assert torch.equal(call(plus_plus, subject, **nothing).images, plain)

    @pytest.mark.parametrize("parts", [{"local": False, "shallow": True}, {"local": True, "shallow": True}])
    def test_shallow_features(self, tiny, xl, subject, parts):
        adapter = tiny.plus_plus_adapter(xl["unet"], **parts)
        pipeline = quiet(RealCustomPipeline(**xl, adapter=adapter, **tiny.image_encoders()))
        square = subject.resize((30, 30))
        for picture in (subject, square):
            assert not torch.allclose(call(pipeline, picture).images, call(pipeline, picture, subject_scale=0).images)

    @pytest.mark.parametrize(
        "option",
        [
            {"mask_threshold": True}, {"mask_refined": True}, {"mask_normalization": "max"}, {"mask_binary": True},
            {"mask_frozen_after": 1}, {"guidance": "cascade"}, {"guidance_rescale": 0.7},
        ],
        ids=lambda option: next(iter(option)),
    )  # fmt: skip
    def test_every_option_has_an_effect(self, plus_plus, subject, option):
        assert not torch.equal(call(plus_plus, subject, **option).images, call(plus_plus, subject).images)

    def test_a_frozen_mask_stays(self, plus_plus, subject):
        steps = call(plus_plus, subject, mask_frozen_after=2, num_inference_steps=4).masks.steps
        assert not torch.equal(steps[0], steps[1])
        assert torch.equal(steps[1], steps[2])
        assert torch.equal(steps[1], steps[3])

    def test_a_guidance_of_one_works(self, plus_plus, subject):
        assert torch.isfinite(call(plus_plus, subject, guidance_scale=1).images).all()

    def test_sizes_whose_grids_are_odd_work(self, plus_plus, subject):
        output = call(plus_plus, subject, height=92, width=76, latents=noise(92, 76))
        assert output.masks.steps.shape == (3, 1, 12, 10)

    def test_a_row_of_a_batch_is_the_single_run(self, plus_plus, subject):
        both = call(plus_plus, subject, num_images_per_prompt=2, latents=torch.cat([noise(), noise(seed=4)]))
        for row, seed in enumerate((3, 4)):
            torch.testing.assert_close(both.images[row], call(plus_plus, subject, latents=noise(seed=seed)).images[0],
                                       atol=1e-4, rtol=1e-4)  # fmt: skip

    def test_a_refined_mask_needs_no_map_between_all_cells(self, plus_plus, subject):
        refined = call(plus_plus, subject, mask_refined=True)
        assert not torch.equal(refined.masks.steps[0], call(plus_plus, subject).masks.steps[0])
        assert not any("SelfAttnProcessor" in type(one).__name__ for one in plus_plus.unet.attn_processors.values())


class TestOfficial:
    @pytest.fixture(scope="class")
    def official(self, tiny, xl):
        solver = diffusers.DPMSolverSinglestepScheduler.from_config(xl["scheduler"].config)
        parts = {**xl, "scheduler": solver, "adapter": tiny.plus_plus_adapter(xl["unet"]), **tiny.image_encoders()}
        return quiet(RealCustomPipeline(**parts))

    @pytest.fixture(scope="class")
    def watched(self, official, subject):
        """A run whose latent has 17 x 17 cells: what the UNet was told, what it gave, what the adapter was told, the output.

        Every step calls the UNet for the mask, for the subject and for what is black, and the adapter for the latter two.
        """
        told, given, acts, act = [], [], [], official.adapter.act
        hooks = [
            official.unet.register_forward_pre_hook(lambda _, *arguments: told.append(arguments), with_kwargs=True),
            official.unet.register_forward_hook(lambda _, __, predicted: given.append(predicted[0])),
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(official.adapter, "act", lambda *one, **by: acts.append((one[0], by)) or act(*one, **by))
            output = call(official, subject, compat="official", height=68, width=68, latents=noise(68, 68))
        for hook in hooks:
            hook.remove()
        return told, given, acts, output

    @torch.no_grad()
    def test_the_unet_is_told_the_second_encoders_last_state_of_prompt_and_empty_sentence(self, watched, xl):
        expected = []
        for sentence in (PROMPT, ""):
            ids = xl["tokenizer_2"](sentence, padding="max_length", return_tensors="pt").input_ids
            end = ids[0].tolist().index(xl["tokenizer_2"].eos_token_id)
            expected.append(xl["text_encoder_2"](ids).last_hidden_state[:, end])
        positive, negative = expected
        pooled = [named["added_cond_kwargs"]["text_embeds"] for _, named in watched[0]]
        torch.testing.assert_close(torch.stack(pooled), torch.stack([positive, positive, negative] * 3))

    @torch.no_grad()
    def test_the_reference_is_squashed_and_the_negative_branch_sees_black_under_the_same_mask(
        self, watched, official, subject
    ):
        levels = torch.from_numpy(np.asarray(subject, np.float32) / 255).permute(2, 0, 1)[None]
        squashed = torch.nn.functional.interpolate(levels, (56, 56), mode="bilinear", align_corners=False)
        encoders = official.image_encoder, official.image_encoder_2
        seen = [
            twin_features(pixels, *encoders, siglip_layers=[1], dino_layers=[2])
            for pixels in (squashed, torch.zeros(1, 3, 56, 56))
        ]
        expected = [official.adapter.tokens(*features) for features in seen]
        _, _, acts, output = watched
        assert output.masks.steps.shape == (3, 1, 8, 8)
        for number, (tokens, named) in enumerate(acts):
            torch.testing.assert_close(tokens, expected[number % 2])
            assert torch.equal(named["mask"], output.masks.steps[number // 2])
            assert named["present"] is None
        assert len(acts) == 6

    def test_what_is_decoded_is_the_clean_picture_that_the_last_prediction_means(self, watched, official):
        told, given, _, output = watched
        (noisy, timestep, _), _ = told[-1]
        positive, negative = given[-2:]
        alpha = official.scheduler.alphas_cumprod[int(timestep)]
        predicted = negative + 3.5 * (positive - negative)
        torch.testing.assert_close(output.images, (noisy - (1 - alpha).sqrt() * predicted) / alpha.sqrt())

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"guidance": "cascade"}, "but cascade and text were asked for"),
            ({"mask_source": "previous"}, "but direct and previous were asked for"),
            ({"height": 92, "width": 76, "latents": noise(92, 76)}, r"cannot bring \(11, 9\) to \(12, 10\)"),
        ],
        ids=["cascade", "mask source", "size"],
    )
    def test_what_the_authors_loop_cannot_do_is_refused(self, official, subject, changes, message):
        with pytest.raises(InputError, match=message):
            call(official, subject, compat="official", **changes)

    def test_the_unet_is_told_width_and_height_the_other_way_round(self, official, subject):
        told = []
        hook = official.unet.register_forward_pre_hook(
            lambda _, __, given: told.append(given["added_cond_kwargs"]["time_ids"][0].tolist()), with_kwargs=True
        )
        shared = {"height": 64, "width": 96, "latents": noise(64, 96), "num_inference_steps": 2}
        for compat, expected in (("official", [96, 64, 0, 0, 96, 64]), (None, [64, 96, 0, 0, 64, 96])):
            told.clear()
            call(official, subject, compat=compat, **shared)
            assert told
            assert all(ids == expected for ids in told)
        hook.remove()

    def test_a_scheduler_that_the_authors_do_not_have_is_refused(self, plus_plus, tiny, xl, subject):
        euler = diffusers.EulerDiscreteScheduler.from_config(xl["scheduler"].config)
        parts = {**xl, "scheduler": euler, "adapter": tiny.plus_plus_adapter(xl["unet"]), **tiny.image_encoders()}
        with pytest.raises(InputError, match=r"knows DPMSolverSinglestepScheduler and DDIMScheduler, but .* Euler"):
            call(quiet(RealCustomPipeline(**parts)), subject, compat="official")


class TestSd:
    """RealCustom as the CVPR paper has it: a CLIP image encoder, scored tokens."""

    @pytest.fixture(scope="class")
    def clip(self, tiny):
        config = transformers.CLIPVisionConfig(
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=7,
        )
        return tiny._fixed(transformers.CLIPVisionModel, config)

    def test_the_subject_acts(self, tiny, sd, clip, subject):
        adapter = tiny.adapter(sd["unet"], feature_dim=24, token_dim=24)
        pipeline = quiet(RealCustomPipeline(**sd, adapter=adapter, image_encoder=clip))
        given = {"latents": noise(32, 32)}
        for picture in (subject, subject.resize((30, 30))):
            assert not torch.allclose(
                call(pipeline, picture, **given).images,
                call(pipeline, picture, subject_scale=0, **given).images,
                atol=1e-3,
            )

    @pytest.mark.parametrize("flagged", [True, False])
    def test_the_bases_safety_checker_is_kept(self, tiny, sd, flagged):
        tower = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = transformers.CLIPConfig(
            vision_config={**tower, "image_size": 28, "patch_size": 7}, text_config=tower, projection_dim=16
        )
        checker = tiny._fixed(StableDiffusionSafetyChecker, config)
        checker.special_care_embeds_weights.data.fill_(2.0)  # a cosine that there is none
        checker.concept_embeds_weights.data.fill_(-2.0 if flagged else 2.0)
        extractor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=28)
        pipeline = quiet(RealCustomPipeline(**sd, safety_checker=checker, feature_extractor=extractor))
        output = pipeline(PROMPT, num_inference_steps=1, latents=noise(32, 32))
        plain = quiet(RealCustomPipeline(**sd))(PROMPT, num_inference_steps=1, latents=noise(32, 32))
        assert output.nsfw_content_detected == [flagged]
        assert plain.nsfw_content_detected is None
        assert plain.images[0].getbbox() is not None
        expected = Image.new("RGB", plain.images[0].size) if flagged else plain.images[0]
        assert output.images[0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("narrow", [True, False])
def test_an_autoencoder_that_overflows_in_float16_computes_in_float32(tiny, narrow):
    vae = tiny.autoencoder_kl()
    vae.register_to_config(force_upcast=narrow)
    expected = to_pixels(vae, noise(32))
    vae.half()
    seen = []
    vae.decoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].dtype))
    torch.testing.assert_close(to_pixels(vae, noise(32).half()).float(), expected, atol=2e-2, rtol=2e-2)
    assert seen == [torch.float32 if narrow else torch.float16]
    assert vae.dtype == torch.float16
    assert to_latents(vae, expected.half()).isfinite().all()


class TestLoading:
    def test_an_adapter_on_a_saved_base(self, tiny, xl, subject, tmp_path, plus_plus):
        diffusers.StableDiffusionXLPipeline(**xl, add_watermarker=False).save_pretrained(tmp_path / "base")
        plus_plus.adapter.save_pretrained(tmp_path / "part" / "adapter")
        for name in ("image_encoder", "image_encoder_2"):
            getattr(plus_plus, name).save_pretrained(tmp_path / "part" / name)
        loaded = quiet(RealCustomPipeline.from_pretrained(tmp_path / "base", adapter=tmp_path / "part"))
        assert torch.equal(call(loaded, subject).images, call(plus_plus, subject).images)
        loaded.save_pretrained(tmp_path / "whole")
        again = quiet(RealCustomPipeline.from_pretrained(tmp_path / "whole"))
        assert torch.equal(call(again, subject).images, call(plus_plus, subject).images)

    def test_an_adapter_for_another_family_is_refused_and_both_are_named(self, tiny, xl, sd):
        with pytest.raises(
            InputError, match=r"made for another UNet: \d+ .* widths \[32, 64\], but this base .* \[32, 48\]"
        ):
            RealCustomPipeline(**xl, adapter=tiny.adapter(sd["unet"]))

    def test_features_of_another_encoder_are_refused(self, tiny, xl, subject):
        pipeline = quiet(RealCustomPipeline(**xl, adapter=tiny.plus_plus_adapter(xl["unet"])))
        with pytest.raises(
            InputError, match=r"takes features 48 wide, but the AutoencoderKL of this pipeline gives 16"
        ):
            call(pipeline, Image.new("RGB", (9, 9)))

    def test_an_adapter_that_does_not_say_which_layers_it_takes_is_refused(self, tiny, xl, subject):
        adapter = tiny.adapter(xl["unet"], feature_dim=48, token_dim=64, scoring_dim=0, cross_scale={"head_dim": 16})
        pipeline = quiet(RealCustomPipeline(**xl, adapter=adapter, **tiny.image_encoders()))
        with pytest.raises(InputError, match="feature_layers must say which layers of siglip and dino it takes"):
            call(pipeline, subject)


def test_the_command_puts_an_adapter_on_a_base_and_makes_the_picture_again(
    plus_plus, xl, subject, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    diffusers.StableDiffusionXLPipeline(**xl, add_watermarker=False).save_pretrained("base")
    plus_plus.adapter.save_pretrained("part/adapter")
    for name in ("image_encoder", "image_encoder_2"):
        getattr(plus_plus, name).save_pretrained(f"part/{name}")
    subject.save("dog.png")
    given = ["--model", "base", "--device", "cpu"]
    command = ["generate", "dog.png", PROMPT, "--word", "dog", "--steps", "2", "--seed", "1", "-o", "new.png", *given]
    assert main(command) == 2  # the base alone can only make pictures of text
    assert main([*command, "--adapter", "part"]) == 0
    told = Image.open("new.png").text
    assert '"adapter":"part"' in told["realcustom"]
    assert str(tmp_path) not in "".join(told.values())
    assert main(["replay", "new.png", "dog.png", *given]) == 2
    assert main(["replay", "new.png", "dog.png", *given, "--adapter", "part"]) == 0
    assert Image.open("new-again.png").tobytes() == Image.open("new.png").tobytes()


def test_every_part_may_lie_elsewhere_than_it_computes(tiny, subject):
    """As after diffusers' sequential offloading, with the processor as the device to compute on."""
    parts = tiny.sd_parts()
    pipeline = quiet(RealCustomPipeline(**parts, adapter=tiny.adapter(parts["unet"])))
    expected = call(pipeline, subject, latents=noise(32, 32), output_type="pt").images
    for name in ("text_encoder", "unet", "vae"):
        accelerate.cpu_offload(getattr(pipeline, name), torch.device("cpu"))
    assert pipeline.vae.device.type == "meta"
    assert torch.equal(call(pipeline, subject, latents=noise(32, 32), output_type="pt").images, expected)


class TestDefaults:
    """What a model does not say follows from the adapter that it has."""

    def test_a_part_that_is_put_on_a_saved_base_brings_those_of_its_paper(self, tiny, xl, tmp_path):
        quiet(RealCustomPipeline(**xl, token_ratio=0.6)).save_pretrained(tmp_path)
        part = {"adapter": tiny.plus_plus_adapter(xl["unet"]), **tiny.image_encoders()}
        own = RealCustomPipeline.from_pretrained(tmp_path, **part).defaults
        expected = {**quiet(RealCustomPipeline(**xl, **part)).defaults, "token_ratio": 0.6}
        assert own == expected
        assert (own["guidance"], own["num_inference_steps"]) == ("direct", 25)

    def test_a_mask_is_never_frozen_where_that_is_asked(self, plus_plus, subject):
        assert plus_plus.defaults["mask_frozen_after"] == 12
        steps = call(plus_plus, subject, num_inference_steps=16, mask_frozen_after="never").masks.steps
        assert not torch.equal(steps[14], steps[15])
        steps = call(plus_plus, subject, num_inference_steps=16).masks.steps
        assert torch.equal(steps[14], steps[15])

    def test_a_painter_makes_the_librarys_picture(self, plus_plus, subject):
        painter = Painter(plus_plus, Place("base", "hub", Path("/nowhere")))
        settings = painter.settings("a dog", "dog", seed=3, num_inference_steps=4)
        assert settings.mask_frozen_after == 12
        made = painter.paint([Source([subject])], [settings]).pictures[0]
        ours = plus_plus(
            "a dog", subject, "dog", generator=[torch.Generator().manual_seed(3)], num_inference_steps=4
        ).images[0]  # fmt: skip
        assert np.array_equal(np.asarray(made), np.asarray(ours))

    def test_where_nothing_is_told_zeros_the_empty_sentence_is_written_down(self, tiny, plus_plus):
        place = Place("base", "hub", Path("/nowhere"))
        said = [Painter(one, place).settings("a dog", "dog").negative_prompt for one in (plus_plus, tiny.pipeline())]
        assert said == [None, ""]

    def test_pictures_of_older_versions_that_say_no_number_were_never_frozen(self, plus_plus):
        told = Painter(plus_plus, Place("base", "hub", Path("/nowhere"))).settings("a dog", "dog").model_dump()
        assert PictureSettings(**{**told, "mask_frozen_after": None}).mask_frozen_after == "never"
        assert PictureSettings(**{**told, "mask_frozen_after": 0}).mask_frozen_after == 0  # refused where it is used

    def test_a_number_beyond_the_end_is_read_where_the_models_own_is_not(self, plus_plus):
        painter = Painter(plus_plus, Place("base", "hub", Path("/nowhere")))
        for steps, unread in ((16, False), (8, True)):
            settings = painter.settings("a dog", "dog", num_inference_steps=steps, mask_frozen_after=99)
            assert ("mask_frozen_after" in painter.unread(settings, [False])) == unread
        with pytest.raises(
            InputError, match="mask_frozen_after must be 'never' or a whole number of at least 1, but is 0"
        ):
            painter.settings("a dog", "dog", mask_frozen_after=0)


def test_latents_have_the_mean_and_spread_that_the_autoencoder_says(tiny, xl):
    vae = tiny.autoencoder_kl()
    vae.register_to_config(latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 2.0, 0.5, 1.0])
    parts = {**xl, "vae": vae}
    shared = {"prompt": PROMPT, "num_inference_steps": 2, "latents": noise(), "output_type": "pt"}
    stock = quiet(diffusers.StableDiffusionXLPipeline(**parts, add_watermarker=False))(**shared, guidance_scale=5.0)
    ours = quiet(RealCustomPipeline(**parts))(**shared, guidance_scale=5.0)
    torch.testing.assert_close(ours.images, stock.images, atol=1e-4, rtol=1e-4)
    pixels = 2 * ours.images - 1
    plain = tiny.autoencoder_kl()
    statistics = [torch.tensor(one).view(1, 4, 1, 1) for one in (vae.config.latents_mean, vae.config.latents_std)]
    expected = (to_latents(plain, pixels) - plain.config.scaling_factor * statistics[0]) / statistics[1]
    torch.testing.assert_close(to_latents(vae, pixels), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 9}, "takes 9 channels and predicts 4"),
        ({"time_cond_proj_dim": 8}, "is told its guidance scale"),
    ],
)
def test_a_unet_that_wants_more_than_the_loop_gives_is_refused(tiny, sd, changes, message):
    with pytest.raises(InputError, match=f"{message}.*load_realcustom"):
        RealCustomPipeline(**{**sd, "unet": tiny.unet(**changes)})


def test_an_input_error_is_not_told_as_a_broken_model(xl, tmp_path):
    RealCustomPipeline(**xl).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"^mask_layers must be a list"):
        RealCustomPipeline.from_pretrained(tmp_path, mask_layers="up_blocks.1")


def test_places_need_a_square_of_tokens(tiny, xl, subject):
    clip = tiny._fixed(
        transformers.CLIPVisionModelWithProjection,
        transformers.CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                                      image_size=28, patch_size=7, projection_dim=16),
    )  # fmt: skip
    adapter = tiny.adapter(xl["unet"], placed=True)
    pipe = quiet(RealCustomPipeline(**xl, adapter=adapter, image_encoder=clip))
    with pytest.raises(InputError, match="it has 17 tokens, which are no square grid"):
        call(pipe, subject)


def test_refining_has_an_effect_whatever_the_scale_of_the_mask(plus_plus, subject):
    plain, refined = (
        call(plus_plus, subject, mask_normalization="none", mask_refined=one).masks.steps for one in (False, True)
    )
    assert not torch.equal(plain, refined)
    with pytest.raises(InputError, match="which refines no mask with mask_normalization 'none'"):
        call(plus_plus, subject, mask_normalization="none", mask_refined=True, compat="official")
