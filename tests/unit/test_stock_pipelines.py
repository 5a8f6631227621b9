"""RealCustom on diffusers' own pipelines, beside what else people load onto them."""

from __future__ import annotations

import accelerate
import diffusers
import peft
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from PIL import Image

from realcustom import masks
from realcustom.errors import InputError, WordNotFound
from realcustom.pipeline import RealCustomPipeline
from realcustom.stock_pipelines import (
    load_realcustom,
    realcustom_masks,
    set_realcustom_scale,
    set_realcustom_subject,
    set_realcustom_subjects,
    unload_realcustom,
)
from realcustom.subject import Subject

PROMPT = "a dog, too"
NO_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
NO_MARK = {"add_watermarker": False}


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def noise(size, seed=3):
    return torch.randn(1, 4, size // 4, size // 4, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def sd(tiny):
    return tiny.sd_parts()


@pytest.fixture
def adapter(tiny, sd):
    return tiny.adapter(sd["unet"])


@pytest.fixture
def pipe(sd):
    return quiet(diffusers.StableDiffusionPipeline(**sd, **NO_CHECKER))


@pytest.fixture(scope="module")
def subject(tiny):
    return tiny.subject()


def call(pipe, **changes):
    arguments = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "latent", "latents": noise(32)}
    return pipe(**{"prompt": PROMPT, **arguments, **changes}).images


def test_the_call_makes_what_realcustoms_own_pipeline_makes(pipe, sd, adapter, subject):
    ours = quiet(RealCustomPipeline(**sd, adapter=adapter))
    expected = ours(PROMPT, subject, "dog", num_inference_steps=3, guidance_scale=4.0, subject_guidance_scale=6.0,
                    output_type="latent", latents=noise(32))  # fmt: skip
    load_realcustom(pipe, adapter)
    set_realcustom_subject(pipe, subject, "dog", subject_guidance_scale=6.0)
    torch.testing.assert_close(call(pipe), expected.images, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(realcustom_masks(pipe).steps, expected.masks.steps, atol=1e-4, rtol=1e-4)


def test_and_so_for_several_subjects(pipe, sd, adapter, subject):
    prompt = "a dog, a toy"
    cast = [Subject(subject, "dog"), Subject(subject.rotate(90), "toy", scale=2.0, start=0.4)]
    ours = quiet(RealCustomPipeline(**sd, adapter=adapter))
    expected = ours(prompt, subjects=cast, num_inference_steps=3, guidance_scale=4.0, subject_guidance_scale=6.0,
                    output_type="latent", latents=noise(32))  # fmt: skip
    load_realcustom(pipe, adapter)
    set_realcustom_subjects(pipe, cast, subject_guidance_scale=6.0)
    torch.testing.assert_close(call(pipe, prompt=prompt), expected.images, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(realcustom_masks(pipe).each, expected.masks.each, atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="subjects must be a list"):
        set_realcustom_subjects(pipe, [])


def test_and_so_for_realcustom_plus_plus_on_sdxl(tiny, subject):
    parts = tiny.sdxl_parts()
    adapter, encoders = tiny.plus_plus_adapter(parts["unet"]), tiny.image_encoders()
    pipe = quiet(diffusers.StableDiffusionXLPipeline(**parts, **NO_MARK))
    ours = quiet(RealCustomPipeline(**parts, adapter=adapter, **encoders))
    shared = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "latent", "latents": noise(64)}
    expected = ours(PROMPT, subject, "dog", **shared).images
    load_realcustom(pipe, adapter, **encoders)
    set_realcustom_subject(pipe, subject, "dog")
    torch.testing.assert_close(pipe(PROMPT, **shared).images, expected, atol=1e-3, rtol=1e-3)


def test_until_a_subject_is_set_and_after_unloading_the_pictures_are_the_old_ones_bit_for_bit(pipe, adapter, subject):
    processors = dict(pipe.unet.attn_processors)
    before = call(pipe)
    load_realcustom(pipe, adapter)
    assert torch.equal(call(pipe), before)
    set_realcustom_subject(pipe, subject, "dog")
    assert not torch.allclose(call(pipe), before, atol=1e-3)
    set_realcustom_scale(pipe, 0)
    assert torch.equal(call(pipe), before)
    unload_realcustom(pipe)
    assert torch.equal(call(pipe), before)
    assert all(pipe.unet.attn_processors[name] is one for name, one in processors.items())
    assert not pipe.unet._forward_hooks
    assert not pipe.unet._forward_pre_hooks
    assert "encode_prompt" not in vars(pipe)
    with pytest.raises(InputError, match="has no RealCustom adapter"):
        unload_realcustom(pipe)


def test_a_saved_part_is_loaded_by_its_folder(pipe, adapter, subject, tmp_path):
    adapter.save_pretrained(tmp_path)
    load_realcustom(pipe, adapter)
    set_realcustom_subject(pipe, subject, "dog")
    expected = call(pipe)
    unload_realcustom(pipe)
    load_realcustom(pipe, tmp_path)
    set_realcustom_subject(pipe, subject, "dog")
    assert torch.equal(call(pipe), expected)


def test_every_run_begins_anew_and_several_pictures_are_made(pipe, adapter, subject):
    load_realcustom(pipe, adapter)
    set_realcustom_subject(pipe, subject, "dog")
    first = call(pipe)
    both = call(
        pipe,
        prompt=[PROMPT, "a dog"],
        num_images_per_prompt=2,
        latents=torch.cat([noise(32, seed) for seed in range(3, 7)]),
    )
    torch.testing.assert_close(both[0], first[0], atol=1e-3, rtol=1e-3)
    assert realcustom_masks(pipe).steps.shape == (3, 4, 8, 8)
    assert torch.equal(call(pipe), first)


def test_the_word_is_found_in_the_prompt_that_the_call_is_given(pipe, adapter, subject):
    load_realcustom(pipe, adapter)
    set_realcustom_subject(pipe, subject, "dog")
    with pytest.raises(WordNotFound):
        call(pipe, prompt="a goat")


def test_calls_with_prompt_embeds_need_the_prompts(pipe, adapter, subject):
    states, negative = pipe.encode_prompt(PROMPT, "cpu", 1, True)
    given = {"prompt": None, "prompt_embeds": states, "negative_prompt_embeds": negative}
    load_realcustom(pipe, adapter)
    set_realcustom_subject(pipe, subject, "dog")
    expected = call(pipe)
    with pytest.raises(InputError, match="name the prompts in set_realcustom_subject"):
        call(pipe, **given)
    set_realcustom_subject(pipe, subject, "dog", prompt=PROMPT)
    torch.testing.assert_close(call(pipe, **given), expected, atol=1e-4, rtol=1e-4)


def test_embeds_of_other_than_the_named_prompts_are_refused(pipe, adapter, subject):
    states, negative = pipe.encode_prompt(PROMPT, "cpu", 1, True)
    load_realcustom(pipe, adapter)
    set_realcustom_subject(pipe, subject, "dog", prompt=[PROMPT, PROMPT])
    with pytest.raises(InputError, match="the UNet was called with 2 rows for 2 prompts"):
        call(pipe, prompt=None, prompt_embeds=states, negative_prompt_embeds=negative)


def test_a_run_that_grows_by_a_picture_is_refused(pipe, adapter, subject):
    def grow(_, __, ___, tensors):
        return {name: torch.cat([one[:1], one]) for name, one in tensors.items()}

    load_realcustom(pipe, adapter)
    set_realcustom_subject(pipe, subject, "dog")
    with pytest.raises(InputError, match="the UNet was called with 3 rows for 2 pictures"):
        call(pipe, guidance_scale=1.0, num_images_per_prompt=2, latents=torch.cat([noise(32), noise(32, 4)]),
             callback_on_step_end=grow, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"])  # fmt: skip


def own(parts, adapter, subject, **changes):
    """Return what RealCustom's own pipeline makes."""
    arguments = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "latent", "latents": noise(32)}
    ours = quiet(RealCustomPipeline(**parts, adapter=adapter))
    return ours(PROMPT, subject, "dog", **{**arguments, **changes}).images


def customized(pipe, adapter, subject, run):
    """Return what a call makes with the subject, and without."""
    load_realcustom(pipe, adapter)
    plain = run(pipe)
    set_realcustom_subject(pipe, subject, "dog")
    return run(pipe), plain


def differ(pair):
    made, plain = pair
    assert torch.isfinite(made).all()
    return bool((made.float() - plain.float()).abs().max() > 1e-3)


class TestTogether:
    """What is written in docs/diffusers.md as tested."""

    @pytest.mark.parametrize(("scheduler", "scale"), [("DDIMScheduler", 1.0), ("LCMScheduler", 0.0)])
    def test_without_a_negative_pass(self, sd, adapter, subject, scheduler, scale):
        parts = {**sd, "scheduler": getattr(diffusers, scheduler).from_config(sd["scheduler"].config)}
        pipe = quiet(diffusers.StableDiffusionPipeline(**parts, **NO_CHECKER))
        expected = own(parts, adapter, subject, guidance_scale=1.0, generator=torch.Generator().manual_seed(0))
        made, _ = customized(
            pipe, adapter, subject,
            lambda pipe: call(pipe, guidance_scale=scale, generator=torch.Generator().manual_seed(0)),
        )  # fmt: skip
        torch.testing.assert_close(made, expected, atol=1e-3, rtol=1e-3)

    def test_image_to_image(self, sd, adapter, subject):
        pipe = quiet(diffusers.StableDiffusionImg2ImgPipeline(**sd, **NO_CHECKER))

        def run(pipe):
            return pipe(PROMPT, Image.new("RGB", (32, 32), "blue"), strength=0.8, num_inference_steps=4,
                        generator=torch.Generator().manual_seed(0), output_type="latent").images  # fmt: skip

        assert differ(customized(pipe, adapter, subject, run))

    @pytest.mark.parametrize("channels", [4, 9])
    def test_inpainting(self, tiny, sd, adapter, subject, channels):
        """All of a picture is a new picture, for a UNet that does not look at the old one."""
        unet, weights = tiny.unet(in_channels=channels), sd["unet"].state_dict()
        first = torch.nn.functional.pad(weights["conv_in.weight"], (0, 0, 0, 0, 0, channels - 4))
        unet.load_state_dict({**weights, "conv_in.weight": first})
        pipe = quiet(diffusers.StableDiffusionInpaintPipeline(**{**sd, "unet": unet}, **NO_CHECKER))
        picture, everywhere = Image.new("RGB", (32, 32), "blue"), Image.new("L", (32, 32), 255)
        made, _ = customized(
            pipe, adapter, subject,
            lambda pipe: call(pipe, image=picture, mask_image=everywhere, height=32, width=32, strength=1.0),
        )  # fmt: skip
        torch.testing.assert_close(made, own(sd, adapter, subject), atol=1e-3, rtol=1e-3)

    def test_controlnet(self, sd, adapter, subject):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            control = diffusers.ControlNetModel.from_unet(sd["unet"], conditioning_embedding_out_channels=(8, 16, 32))
            for parameter in control.controlnet_down_blocks.parameters():
                torch.nn.init.normal_(parameter, std=0.1)
        pipe = quiet(diffusers.StableDiffusionControlNetPipeline(**sd, controlnet=control, **NO_CHECKER))

        red = Image.new("RGB", (32, 32), "red")
        made, _ = customized(pipe, adapter, subject, lambda pipe: call(pipe, image=red, height=32, width=32))
        unload_realcustom(pipe)
        forward = sd["unet"].forward

        def controlled(sample, timestep, states, **named):
            shown = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(len(sample), 3, 32, 32)
            down, middle = control(sample, timestep, states, shown, return_dict=False)
            return forward(sample, timestep, states, **named, down_block_additional_residuals=down,
                           mid_block_additional_residual=middle)  # fmt: skip

        plain = own(sd, adapter, subject)
        sd["unet"].forward = controlled
        torch.testing.assert_close(made, own(sd, adapter, subject), atol=1e-3, rtol=1e-3)
        assert not torch.allclose(made, plain, atol=1e-2)

    def test_lora_loaded_before_and_after(self, pipe, sd, adapter, subject):
        plain = call(pipe)
        pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
        with_lora = call(pipe)
        assert not torch.allclose(with_lora, plain, atol=1e-3)
        load_realcustom(pipe, adapter)
        assert torch.equal(call(pipe), with_lora)
        set_realcustom_subject(pipe, subject, "dog")
        first = call(pipe)
        unload_realcustom(pipe)
        torch.testing.assert_close(first, own(sd, adapter, subject), atol=1e-3, rtol=1e-3)
        load_realcustom(pipe, adapter)
        set_realcustom_subject(pipe, subject, "dog")
        pipe.unet.disable_adapters()
        assert not torch.allclose(call(pipe), first, atol=1e-3)
        pipe.unet.enable_adapters()
        assert torch.equal(call(pipe), first)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, pipe, adapter, subject, dtype):
        pipe.to(dtype)
        made, plain = customized(pipe, adapter, subject, lambda pipe: call(pipe, latents=noise(32).to(dtype)))
        assert made.dtype == dtype
        assert differ((made, plain))

    def test_compiled(self, pipe, adapter, subject):
        load_realcustom(pipe, adapter)
        set_realcustom_subject(pipe, subject, "dog")
        expected = call(pipe)
        unload_realcustom(pipe)
        pipe.unet = torch.compile(pipe.unet, backend="eager")
        load_realcustom(pipe, adapter)
        set_realcustom_subject(pipe, subject, "dog")
        torch.testing.assert_close(call(pipe), expected, atol=1e-4, rtol=1e-4)
        unload_realcustom(pipe)

    @pytest.mark.parametrize("first", ["offload", "load"])
    def test_a_unet_whose_weights_are_offloaded(self, pipe, adapter, subject, first):
        """As diffusers' sequential offloading does it, with the processor as the device to compute on."""
        load_realcustom(pipe, adapter)
        set_realcustom_subject(pipe, subject, "dog")
        expected = call(pipe)
        if first == "offload":
            unload_realcustom(pipe)
        accelerate.cpu_offload(pipe.unet, torch.device("cpu"))
        if first == "offload":
            load_realcustom(pipe, adapter)
            set_realcustom_subject(pipe, subject, "dog")
        assert pipe.unet.conv_in.weight.device.type == "meta"
        assert torch.equal(call(pipe), expected)

    def test_tiled_autoencoder(self, pipe, sd, adapter, subject):
        expected = own(sd, adapter, subject, output_type="pt")
        pipe.vae.enable_tiling()
        pipe.vae.enable_slicing()
        made, _ = customized(pipe, adapter, subject, lambda pipe: call(pipe, output_type="pt"))
        torch.testing.assert_close(made, expected, atol=1e-3, rtol=1e-3)


def test_settings_that_are_not_given_are_the_papers_again(pipe, adapter, subject):
    load_realcustom(pipe, adapter)
    set_realcustom_subject(pipe, subject, "dog")
    expected = call(pipe)
    set_realcustom_subject(pipe, subject, "dog", subject_guidance_scale=2.0, mask_scope=0.8)
    assert not torch.allclose(call(pipe), expected, atol=1e-3)
    set_realcustom_subject(pipe, subject, "dog")
    assert torch.equal(call(pipe), expected)


def test_another_pipeline_with_the_same_unet_makes_its_own_pictures(pipe, sd, adapter, subject):
    other = quiet(diffusers.StableDiffusionPipeline(**sd, **NO_CHECKER))
    before = call(other, prompt="a goat"), call(other)
    load_realcustom(pipe, adapter)
    set_realcustom_subject(pipe, subject, "dog")
    call(pipe)
    assert torch.equal(call(other, prompt="a goat"), before[0])
    assert torch.equal(call(other), before[1])  # even of the same prompt
    assert len(realcustom_masks(pipe).steps) == 3


def test_embeddings_can_be_made_of_any_text(pipe, adapter, subject):
    load_realcustom(pipe, adapter)
    set_realcustom_subject(pipe, subject, "dog")
    assert len(pipe.encode_prompt("a blurry goat", "cpu", 1, False)[0]) == 1


@pytest.mark.parametrize("size", [(8, 8), (1, 16, 16), (5, 3)])
@pytest.mark.parametrize("mode", ["replace", "intersect"])
def test_a_mask_may_be_given(pipe, sd, adapter, subject, size, mode):
    mask = torch.zeros(size)
    mask[..., : size[-1] // 2 + 1] = 1
    ours = quiet(RealCustomPipeline(**sd, adapter=adapter))
    expected = ours(PROMPT, subject, "dog", num_images_per_prompt=2, mask=mask, mask_mode=mode, num_inference_steps=2,
                    guidance_scale=4.0, output_type="latent", latents=torch.cat([noise(32), noise(32, 4)]))  # fmt: skip
    load_realcustom(pipe, adapter)
    set_realcustom_subject(pipe, subject, "dog", mask=mask, mask_mode=mode)
    made = call(pipe, num_images_per_prompt=2, num_inference_steps=2, latents=torch.cat([noise(32), noise(32, 4)]))
    torch.testing.assert_close(made, expected.images, atol=2e-3, rtol=1e-3)


def test_masks_yield_as_in_the_own_pipeline(pipe, sd, adapter, subject, monkeypatch):
    monkeypatch.setattr(masks, "YIELDS_TO", 1.005)  # an untrained model looks at all words nearly alike
    ours = quiet(RealCustomPipeline(**sd, adapter=adapter, mask_yields=True, mask_scope=1.0))
    expected = ours(PROMPT, subject, "dog", num_images_per_prompt=2, num_inference_steps=2, guidance_scale=4.0,
                    output_type="latent", latents=torch.cat([noise(32), noise(32, 4)]))  # fmt: skip
    load_realcustom(pipe, adapter)
    set_realcustom_subject(pipe, subject, "dog", mask_scope=1.0, mask_yields=True)
    call(pipe, num_images_per_prompt=2, num_inference_steps=2, latents=torch.cat([noise(32), noise(32, 4)]))
    made = realcustom_masks(pipe).steps[0] > 0
    assert (made == (expected.masks.steps[0] > 0)).float().mean() > 0.95
    assert 0 < made.sum() < made.numel()


@pytest.mark.parametrize("settings", [{"mask_refined": True}, {"mask_layers": ("mid_block",)}])
def test_settings_of_masks_are_read(pipe, adapter, subject, settings):
    load_realcustom(pipe, adapter)
    set_realcustom_subject(pipe, subject, "dog")
    plain = call(pipe), realcustom_masks(pipe).steps
    set_realcustom_subject(pipe, subject, "dog", **settings)
    assert not torch.equal(call(pipe), plain[0])
    assert not torch.equal(realcustom_masks(pipe).steps[0], plain[1][0])
    with pytest.raises(InputError, match="no cross-attention layer begins with 'nonsense'"):
        set_realcustom_subject(pipe, subject, "dog", mask_layers=("nonsense",))


def test_what_the_unet_uses_up_is_there_for_both_of_its_runs(pipe, sd, adapter, subject):
    """As a T2I-Adapter hands its residuals: a list from which the UNet takes them."""
    load_realcustom(pipe, adapter)
    set_realcustom_subject(pipe, subject, "dog")
    call(pipe)
    seen = []
    forward = sd["unet"].forward

    def watched(*arguments, down_intrablock_additional_residuals=None, **named):
        seen.append(len(down_intrablock_additional_residuals))
        down_intrablock_additional_residuals.clear()
        return forward(*arguments, **named)

    sd["unet"].forward = watched
    residuals = [torch.zeros(1)] * 2
    inner = sd["unet"].__call__
    attachment = pipe._realcustom
    attachment.begin((PROMPT,))
    states, _ = pipe.encode_prompt(PROMPT, "cpu", 1, False)
    pipe._guidance_scale = 1.0
    pipe.scheduler.set_timesteps(2)
    inner(noise(32), pipe.scheduler.timesteps[0], states, down_intrablock_additional_residuals=residuals)
    assert seen == [2, 2]


class TestRefusals:
    def test_perturbed_attention_guidance(self, sd, adapter, subject):
        pag = quiet(diffusers.StableDiffusionPAGPipeline(**sd, **NO_CHECKER, pag_applied_layers="mid"))
        load_realcustom(pag, adapter)
        set_realcustom_subject(pag, subject, "dog")
        with pytest.raises(InputError, match="does not know perturbed-attention guidance"):
            call(pag, pag_scale=3.0)

    def test_an_adapter_for_another_unet(self, tiny, pipe):
        with pytest.raises(InputError, match="made for another UNet"):
            load_realcustom(pipe, tiny.adapter(tiny.unet(block_out_channels=(32, 32), attention_head_dim=2)))
        assert not pipe.unet._forward_hooks

    def test_twice(self, pipe, adapter):
        load_realcustom(pipe, adapter)
        with pytest.raises(InputError, match="call unload_realcustom first"):
            load_realcustom(pipe, adapter)

    def test_other_processors_afterwards(self, pipe, adapter, subject):
        load_realcustom(pipe, adapter)
        set_realcustom_subject(pipe, subject, "dog")
        pipe.unet.set_attn_processor(AttnProcessor2_0())
        with pytest.raises(InputError, match="other attention processors have replaced RealCustom's"):
            call(pipe)

    def test_processors_that_would_be_replaced(self, pipe, adapter):
        class Tuned(AttnProcessor2_0):
            pass

        before = {name: Tuned() if "attn2" in name else one for name, one in pipe.unet.attn_processors.items()}
        pipe.unet.set_attn_processor(dict(before))
        with pytest.raises(InputError, match="would replace Tuned in this UNet"):
            load_realcustom(pipe, adapter)
        assert pipe.unet.attn_processors == before
        pipe.enable_attention_slicing()  # the same attention in parts
        load_realcustom(pipe, adapter)
        other = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
        with pytest.raises(InputError, match="another pipeline with this UNet has a RealCustom adapter"):
            load_realcustom(other, adapter)

    def test_what_is_no_stable_diffusion_pipeline(self, adapter):
        with pytest.raises(InputError, match="not to a DDPMPipeline"):
            load_realcustom(
                diffusers.DDPMPipeline(
                    diffusers.UNet2DModel(
                        sample_size=8,
                        block_out_channels=(32,),
                        down_block_types=("DownBlock2D",),
                        up_block_types=("UpBlock2D",),
                    ),
                    diffusers.DDPMScheduler(),
                ),
                adapter,
            )

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (("dog.png", "dog"), "image must be a PIL picture or a saved subject"),
            ((Image.new("RGB", (9, 9)), " "), "word must be"),
        ],
    )
    def test_wrong_arguments(self, pipe, adapter, arguments, told):
        with pytest.raises(InputError, match="call load_realcustom first"):
            set_realcustom_subject(pipe, *arguments)
        load_realcustom(pipe, adapter)
        with pytest.raises(InputError, match=told):
            set_realcustom_subject(pipe, *arguments)
        with pytest.raises(InputError, match="scale must be a number"):
            set_realcustom_scale(pipe, float("nan"))


def test_a_frozen_mask_and_other_settings_reach_the_run(pipe, adapter, subject):
    load_realcustom(pipe, adapter)
    set_realcustom_subject(pipe, subject, "dog", mask_scope=0.5, mask_frozen_after=1)
    call(pipe)
    steps = realcustom_masks(pipe).steps
    assert torch.equal(steps[0], steps[2])
    assert float((steps[0] > 0).float().mean()) == 0.5


def test_the_scope_is_narrowed_in_the_second_half(pipe, adapter, subject):
    load_realcustom(pipe, adapter)
    set_realcustom_subject(pipe, subject, "dog", mask_scope=0.5, final_mask_scope=0.25)
    call(pipe)
    shares = [float((step > 0).float().mean()) for step in realcustom_masks(pipe).steps]
    assert shares == [0.5, 0.5, 0.25]


@pytest.mark.parametrize("scheduler", ["HeunDiscreteScheduler", "DDIMScheduler"])
def test_the_subject_acts_in_every_evaluation_also_of_a_solver_that_evaluates_twice(pipe, adapter, subject, scheduler):
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    evaluations = []
    handle = pipe.unet.register_forward_pre_hook(lambda *_: evaluations.append(1))
    call(pipe)
    handle.remove()
    load_realcustom(pipe, adapter)
    set_realcustom_subject(pipe, subject, "dog")
    call(pipe)
    assert len(realcustom_masks(pipe).steps) == len(evaluations)


def test_shares_of_an_image_to_image_run_are_those_of_the_steps_that_it_has(sd, adapter, subject):
    pipe = quiet(diffusers.StableDiffusionImg2ImgPipeline(**sd, **NO_CHECKER))

    def made(**times):
        set_realcustom_subjects(pipe, [Subject(subject, "dog", **times)])
        return pipe(PROMPT, Image.new("RGB", (32, 32), "blue"), strength=0.5, num_inference_steps=8,
                    generator=torch.Generator().manual_seed(0), output_type="latent").images  # fmt: skip

    load_realcustom(pipe, adapter)
    late, early, never = made(start=0.5), made(end=0.5), made(start=0.99)
    assert not torch.equal(late, never)
    assert not torch.equal(early, never)


def test_until_its_pipeline_is_called_a_subject_does_not_act_on_another_with_the_same_unet(pipe, sd, adapter, subject):
    other = quiet(diffusers.StableDiffusionPipeline(**sd, **NO_CHECKER))
    before = call(other)
    load_realcustom(pipe, adapter)
    for named in ({}, {"prompt": PROMPT}):
        set_realcustom_subject(pipe, subject, "dog", **named)
        assert torch.equal(call(other), before)
        assert realcustom_masks(pipe) is None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"token_ratio": 0}, "token_ratio must be"), ({"subject_guidance_scale": float("nan")}, "subject_guidance_scale"),
        ({"mask_scope": 2}, "mask_scope must be a share"), ({"mask_frozen_after": 0}, "mask_frozen_after must be 'never' or"),
        ({"final_mask_scope": -1}, "final_mask_scope must be a share"), ({"mask_scop": 1}, "takes no 'mask_scop'"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used_are_refused_before_a_call(pipe, adapter, subject, settings, told):
    load_realcustom(pipe, adapter)
    with pytest.raises(InputError, match=told):
        set_realcustom_subject(pipe, subject, "dog", **settings)


def test_two_subjects_need_two_words(pipe, adapter, subject):
    load_realcustom(pipe, adapter)
    set_realcustom_subjects(pipe, [Subject(subject, "dog"), Subject(subject, "dog")])
    with pytest.raises(InputError, match="two subjects have the word 'dog'"):
        call(pipe)
    with pytest.raises(InputError, match=r"subjects must be a list of realcustom\.Subject"):
        set_realcustom_subjects(pipe, Subject(subject, "dog"))


@pytest.mark.parametrize("refined", [False, True])
def test_processors_of_self_attention_go_on_getting_what_the_call_hands_them(pipe, adapter, subject, refined):
    seen = []

    class Strong(AttnProcessor2_0):
        def __call__(self, *arguments, strength=1.0, **named):
            seen.append(strength)
            return super().__call__(*arguments, **named)

    processors = {name: Strong() if "attn1" in name else one for name, one in pipe.unet.attn_processors.items()}
    pipe.unet.set_attn_processor(dict(processors))
    load_realcustom(pipe, adapter)
    set_realcustom_subject(pipe, subject, "dog", mask_refined=refined)
    call(pipe, cross_attention_kwargs={"strength": 2.0})
    assert set(seen) == {2.0}
    unload_realcustom(pipe)
    assert pipe.unet.attn_processors == processors


def test_unloading_leaves_a_pipelines_own_encode_prompt(pipe, adapter):
    own = pipe.encode_prompt = lambda *arguments, **named: None
    load_realcustom(pipe, adapter)
    unload_realcustom(pipe)
    assert pipe.encode_prompt is own


def test_what_is_said_of_masks_leaves_the_rest_as_the_adapters_paper_has_it(tiny, subject):
    parts = tiny.sdxl_parts()
    pipe = quiet(diffusers.StableDiffusionXLPipeline(**parts, **NO_MARK))
    load_realcustom(pipe, tiny.plus_plus_adapter(parts["unet"]), **tiny.image_encoders())
    set_realcustom_subject(pipe, subject, "dog", mask_yields=True)
    settings = pipe._realcustom.settings
    assert (settings.mask_yields, settings.mask_normalization, settings.mask_frozen_after) == (
        True,
        "min_max_per_layer",
        12,
    )
