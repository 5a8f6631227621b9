from __future__ import annotations

import copy
import io
import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers.callbacks import PipelineCallback
from PIL import Image

from realcustom import masks
from realcustom.errors import InputError, NotANumber, WordNotFound
from realcustom.pipeline import RealCustomPipeline
from realcustom.portrait import fit_reference
from realcustom.settings import MASK_SOURCES, MaskSettings
from realcustom.subject import Subject
from realcustom.subject_encoder import SubjectEncoder

PROMPT = "a dog on the beach"
STEPS = 3
SIDE = 32


@pytest.fixture(scope="module")
def pipeline(tiny):
    return tiny.pipeline()


@pytest.fixture(scope="module")
def subject(tiny):
    return tiny.subject()


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.fixture(scope="module")
def run(pipeline, subject):
    """One picture of the subject as a latent, with some arguments changed."""

    def run(**changes):
        arguments = {"prompt": PROMPT, "subject_image": subject, "subject_word": "dog", "output_type": "latent"}
        return pipeline(**{**arguments, "generator": torch.Generator().manual_seed(5), **changes})

    return run


@pytest.fixture(scope="module")
def plain(run):
    return run(subject_image=None, subject_word=None).images


def test_the_subject_changes_the_picture(run, plain):
    assert (run().images - plain).abs().max() > 0.1


@pytest.mark.parametrize(
    "changes",
    [
        {"subject_scale": 0}, {"mask_scope": 0}, {"mask": torch.zeros(8, 8)}, {"mask": Image.new("L", (50, 20))},
        {"subject_guidance_scale": 0},
    ],
    ids=["no scale", "no scope", "empty mask", "black mask picture", "no guidance"],
)  # fmt: skip
def test_a_subject_without_influence_gives_the_plain_picture_bit_for_bit(run, plain, changes):
    assert torch.equal(run(**changes).images, plain)
    pictures = [
        run(output_type="np", **given).images for given in (changes, {"subject_image": None, "subject_word": None})
    ]
    assert np.array_equal(*pictures)


@pytest.mark.parametrize("interval", [{}, {"guidance_start": 0.3, "guidance_end": 0.6}], ids=["always", "middle"])
@pytest.mark.parametrize("guidance", ["cascade", "direct"])
def test_a_twin_in_the_batch_is_the_plain_picture_and_leaves_the_other_as_it_is(run, guidance, interval):
    chosen = {"guidance": guidance, **interval}
    both = run(num_images_per_prompt=2, subject_scale=[1, 0], generator=seeded(5, 5), **chosen)
    plain = run(subject_image=None, subject_word=None, **chosen)
    assert (both.images[0] - run(**chosen).images[0]).abs().max() < 1e-4
    assert (both.images[1] - plain.images[0]).abs().max() < 1e-4
    assert all(step[0] > 0 and step[1] is None for step in both.report.subjects[0].visual_to_textual)


def test_rows_of_prompts_words_references_scales_and_masks_belong_together(pipeline, subject):
    prompts, words = [PROMPT, "a red cup in the snow"], ["dog", "cup"]
    references = [subject, subject.rotate(90, expand=True, fillcolor="red").crop((0, 0, 20, 40))]
    scales, given = [1.0, 0.0, 1.0, 2.0], torch.rand(4, 8, 8)
    given[2] = 0
    shared = {"mask_mode": "intersect", "output_type": "latent"}
    together = pipeline(
        prompts, references, words, num_images_per_prompt=2, subject_scale=scales, mask=given,
        generator=seeded(1, 2, 3, 4), **shared,
    )  # fmt: skip
    for row, scale in enumerate(scales):
        alone = pipeline(
            prompts[row // 2], references[row // 2], words[row // 2], subject_scale=scale, mask=given[row],
            generator=seeded(row + 1), **shared,
        )  # fmt: skip
        torch.testing.assert_close(together.images[row], alone.images[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(together.masks.steps[:, row], alone.masks.steps[:, 0], atol=1e-4, rtol=0)


def test_each_picture_has_its_own_scale(run):
    together = run(num_images_per_prompt=3, subject_scale=[0.5, 0, 2], generator=seeded(5, 5, 5)).images
    for row, scale in ((0, 0.5), (2, 2.0)):
        assert (together[row] - run(subject_scale=scale).images[0]).abs().max() < 1e-4
    with pytest.raises(InputError, match="subject_scale is a list of 2, but 1 pictures are to be made"):
        run(subject_scale=[1, 0])


def test_a_wider_scope_changes_more(run):
    plain = run(num_inference_steps=1, subject_scale=0).images
    changes = [float((run(num_inference_steps=1, mask_scope=scope).images - plain).norm()) for scope in (0.1, 0.4, 1.0)]
    assert 0 < changes[0] < changes[1] < changes[2]


def test_another_subject_makes_another_picture(run):
    assert not torch.allclose(run(subject_image=Image.new("RGB", (9, 9), "red")).images, run().images, atol=1e-2)


@pytest.mark.parametrize(
    "changes",
    [
        {"output_type": "pt"}, {"cache_interval": 2}, {"mask_source": "previous"},
        *({"guidance": "direct", "mask_source": source} for source in MASK_SOURCES),
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)  # fmt: skip
def test_a_row_of_a_batch_is_the_single_run(pipeline, subject, changes):
    prompts = [PROMPT, "two dogs, ice cream and a cup on the beach"]
    references, chosen = [subject, subject.rotate(90)], {"num_inference_steps": 4, "output_type": "latent", **changes}
    together = pipeline(prompts, references, "dog", generator=seeded(1, 2), **chosen)
    for row in range(2):
        alone = pipeline(prompts[row], references[row], "dog", generator=seeded(row + 1), **chosen)
        torch.testing.assert_close(together.images[row], alone.images[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(together.masks.steps[:, row], alone.masks.steps[:, 0], atol=1e-4, rtol=0)
        assert together.report.subjects[0].words[row] == alone.report.subjects[0].words[0]


@pytest.mark.parametrize(("shown", "words", "seen"), [("aabb", "dddd", 2), ("abab", "dddd", 2), ("aaaa", "dcdd", 1)])
def test_a_picture_that_is_given_several_times_is_looked_at_once(pipeline, subject, monkeypatch, shown, words, seen):
    pictures = {"a": subject, "b": Image.new("RGB", (40, 40), "teal")}
    prompts, called = ["a dog and a cat on the beach"] * 4, {"d": "dog", "c": "cat"}
    looked, features = [], SubjectEncoder.features

    def counted(self, levels, adapter):
        looked.append(len(levels))
        return features(self, levels, adapter)

    arguments = {"num_inference_steps": STEPS, "output_type": "np"}
    given, said = [pictures[one] for one in shown], [called[one] for one in words]
    alone = [
        pipeline(prompt, picture, word, generator=one, **arguments).images[0]
        for prompt, picture, word, one in zip(prompts, given, said, seeded(1, 2, 3, 4), strict=True)
    ]
    monkeypatch.setattr(SubjectEncoder, "features", counted)
    together = pipeline(prompts, given, said, generator=seeded(1, 2, 3, 4), **arguments)
    assert looked == [seen]
    np.testing.assert_allclose(together.images, np.stack(alone), atol=2e-3)
    assert len(together.report.subjects[0].portraits) == seen


def test_pictures_of_one_prompt_lie_next_to_each_other(pipeline, subject):
    prompts = [PROMPT, "a red dog at snow"]
    many = pipeline(
        prompts, subject, "dog", num_images_per_prompt=2, generator=seeded(1, 2, 3, 4), output_type="latent"
    )
    repeated = [prompt for prompt in prompts for _ in range(2)]
    listed = pipeline(repeated, subject, "dog", generator=seeded(1, 2, 3, 4), output_type="latent")
    torch.testing.assert_close(many.images, listed.images, atol=1e-4, rtol=0)
    torch.testing.assert_close(many.masks.steps, listed.masks.steps, atol=1e-4, rtol=0)


def test_first_latents_can_be_given(run):
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    assert torch.equal(run(generator=None, latents=noise).images, run().images)


def test_a_negative_prompt_replaces_the_empty_one(run):
    assert torch.equal(run(negative_prompt="").images, run(negative_prompt=None).images)
    assert torch.equal(run(negative_prompt=["snow"]).images, run(negative_prompt="snow").images)
    assert not torch.allclose(run(negative_prompt="snow").images, run().images, atol=1e-3)


def test_eta_reaches_the_scheduler(run):
    assert not torch.allclose(run(eta=1.0).images, run().images, atol=1e-2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": []}, "prompt must be a sentence or a list of sentences"),
        ({"prompt": [PROMPT, 3]}, "prompt must be a sentence or a list of sentences"),
        ({"subject_word": None}, "subject_image was given without subject_word"),
        ({"subject_image": None}, "subject_word was given without subject_image"),
        ({"subject_image": "toy.png"}, "subject_image must be a PIL picture or a saved subject, but is a str"),
        ({"subject_image": [Image.new("RGB", (8, 8))] * 2}, "list of 2 pictures, one for each prompt, but"),
        ({"subject_image": ["toy.png"]}, "subject_image must be a PIL picture or a saved subject, but is a str"),
        ({"subject_word": ["dog", "dog"]}, "subject_word is a list of 2, but the number of prompts is 1"),
        ({"height": 30}, "height must be a positive multiple of 4 pixels, 8192 at the most, but is 30"),
        ({"width": -4}, "width must be a positive multiple of 4 pixels, 8192 at the most, but is -4"),
        ({"height": 0}, "height must be a positive multiple of 4 pixels, 8192 at the most, but is 0"),
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1, but is 0"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be at least 1, but is 0"),
        ({"num_inference_steps": 2.5}, "num_inference_steps must be a whole number, but is 2.5"),
        ({"num_images_per_prompt": True}, "num_images_per_prompt must be a whole number, but is True"),
        ({"height": "128"}, "height must be a positive multiple of 4 pixels, 8192 at the most, but is 128"),
        ({"mask_scope": "0.1"}, "mask_scope must be a share from 0 to 1, but is '0.1'"),
        ({"prompt": None}, "prompt must be a sentence or a list of sentences, but is None"),
        ({"subject_word": 5}, "subject_word must be"),
        ({"subject_image": 5}, "subject_image must be a PIL picture or a saved subject, but is a int"),
        ({"negative_prompt": [None]}, r"negative_prompt must be a sentence or a list of sentences, but is \[None\]"),
        ({"generator": [None, 5]}, "generator must be a torch.Generator or a list of them"),
        ({"latents": "x"}, "latents must be a tensor of the shape"),
        ({"subject_scale": None}, "subject_scale must be a number or a list with one for each picture, but is None"),
        ({"token_ratio": "1"}, "token_ratio must be a share above 0 and up to 1, but is '1'"),
        ({"mask_binary": "no"}, "mask_binary must be True or False, but is 'no'"),
        ({"mask_mode": "union"}, "mask_mode 'union' was given without mask"),
        ({"mask": np.zeros((0, 0))}, r"mask must hold real numbers, but is \[0, 0\]"),
        ({"callback_on_step_end": 5}, "callback_on_step_end must be a function, but is 5"),
        ({"callback_on_step_end": lambda *_: 5}, "callback_on_step_end must return nothing or a dict of tensors"),
        ({"callback_on_step_end_tensor_inputs": "latents"}, "a callback can get .* but not 'latents'"),
        ({"guidance": "both"}, "guidance must be one of cascade, direct, but is 'both'"),
        ({"guidance_rescale": 2}, "guidance_rescale must be a share from 0 to 1, but is 2"),
        ({"mask_frozen_after": 0}, "mask_frozen_after must be 'never' or a whole number of at least 1, but is 0"),
        ({"compat": "official"}, "compat='official' is for Stable Diffusion XL"),
        ({"mask_scope": 1.1}, "mask_scope must be a share from 0 to 1, but is 1.1"),
        ({"final_mask_scope": 1.1}, "final_mask_scope must be a share from 0 to 1, but is 1.1"),
        ({"mask_scope": -0.1}, "mask_scope must be a share from 0 to 1, but is -0.1"),
        ({"token_ratio": 0}, "token_ratio must be a share above 0 and up to 1, but is 0"),
        ({"token_ratio": 1.5}, "token_ratio must be a share above 0 and up to 1, but is 1.5"),
        ({"mask_normalization": "maximum"}, "mask_normalization"),
        ({"output_type": "jpeg"}, "output_type"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, r"a callback can get .*, but not \['noise'\]"),
        ({"negative_prompt": ["", ""]}, "negative_prompt has 2 entries, but there are 1 prompts"),
        ({"generator": seeded(1, 2)}, "generator is a list of 2, but 1 pictures are to be made"),
        ({"latents": torch.zeros(1, 4, 4, 4)}, r"latents must be a tensor of the shape \(1, 4, 8, 8\), but are \(1, 4, 4, 4\)"),
        ({"mask": torch.zeros(2, 8, 8)}, r"mask must be \[h, w\] or \[1, h, w\], but is \[2, 8, 8\]"),
        ({"mask": torch.full((8, 8), 1.5)}, "mask must lie between 0 and 1, but spans 1.5 to 1.5"),
        ({"mask": torch.full((8, 8), -0.5)}, "mask must lie between 0 and 1, but spans -0.5 to -0.5"),
        ({"subject_word": "robot"}, "does not say 'robot'"),
        ({"subject_word": ""}, "subject_word is empty"),
        ({"prompt": "a \N{ROBOT FACE} on the beach", "subject_word": "\N{ROBOT FACE}"}, "the text encoder does not know"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a number from -1000 to 1000, but is nan"),
        ({"subject_guidance_scale": float("inf")}, "subject_guidance_scale must be a number"),
        ({"subject_scale": 1e30}, "subject_scale must be a number"),
        ({"guidance_scale": "4"}, "guidance_scale must be a number .* but is '4'"),
        ({"eta": float("nan")}, "eta must be a number"),
        ({"num_inference_steps": 1001}, "num_inference_steps must be at most 1000, but is 1001"),
        ({"mask": torch.full((8, 8), float("nan"))}, "mask must lie between 0 and 1, but spans nan"),
        ({"mask": "circle"}, "mask must be a picture, a tensor, an array or the masks of a run, but is a str"),
        ({"subject_image": None, "subject_word": None, "mask": torch.ones(8, 8)}, "mask was given without a subject"),
        ({"subject_image": None, "subject_word": None, "subjects": []}, "subjects must be a list .* at least one"),
        ({"subject_image": None, "subject_word": None, "occurrence": 2}, "occurrence was given without a subject"),
        ({"subject_image": Image.fromarray(np.ones((4, 4), np.float32))}, r"levels \(mode F\) have no known scale"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(run, changes, message):
    with pytest.raises(InputError, match=message):
        run(**changes)


def test_every_prompt_must_say_the_word(pipeline, subject):
    with pytest.raises(WordNotFound, match="'a robot' does not say 'dog'"):
        pipeline([PROMPT, "a robot"], subject, "dog")


def test_the_end_of_a_prompt_that_is_not_read_is_told(run, caplog):
    """Of 17 words 14 fit between the first token and the last."""
    run(prompt="a dog" + " and a cat" * 5, num_inference_steps=1)
    told = [one.getMessage() for one in caplog.records if one.name == "realcustom.pipeline"]
    assert told == ["the text encoder reads 16 tokens; not read: 'and a cat'"]


def test_only_the_layers_that_are_asked_for_make_the_mask(tiny, run, subject):
    picked, everything = tiny.pipeline(mask_layers=["up_blocks.1"]), run(num_inference_steps=1)
    arguments = {"num_inference_steps": 1, "generator": seeded(5)[0], "output_type": "latent"}
    output = picked(PROMPT, subject, "dog", **arguments)
    assert not torch.allclose(output.masks.final, everything.masks.final)
    again = tiny.pipeline(mask_layers=["down_blocks", "mid_block", "up_blocks"])(
        PROMPT, subject, "dog", **{**arguments, "generator": seeded(5)[0]}
    )
    assert torch.equal(again.masks.final, everything.masks.final)


def test_a_placed_subject_follows_its_mask(tiny, subject):
    pipeline, seen = placing(tiny, 1)
    corner = torch.zeros(8, 8)
    corner[:4, :4] = 1
    for mask in (corner, corner.flip(0, 1)):
        pipeline(PROMPT, subject, "dog", mask=mask, generator=seeded(0))
    upper_left, lower_right = (positions[0].mean(dim=0) for positions in seen)
    torch.testing.assert_close(upper_left, torch.tensor([0.25, 0.25]), atol=0.02, rtol=0)
    torch.testing.assert_close(lower_right, torch.tensor([0.75, 0.75]), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "kind",
    [
        "DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
        "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler",
        "LCMScheduler", "PNDMScheduler", "UniPCMultistepScheduler",
    ],
)  # fmt: skip
def test_schedulers(tiny, pipeline, subject, kind):
    swapped = RealCustomPipeline(**{**pipeline.components, "scheduler": tiny.scheduler(kind)})
    swapped.set_progress_bar_config(disable=True)
    pictures = [
        swapped(
            PROMPT,
            subject,
            "dog",
            num_inference_steps=4,
            subject_scale=scale,
            generator=seeded(0),
            output_type="latent",
        )
        for scale in (1, 0)
    ]
    evaluations = len(swapped.scheduler.timesteps)
    assert pictures[0].images.isfinite().all()
    assert not torch.allclose(pictures[0].images, pictures[1].images, atol=1e-3)
    assert len(pictures[0].masks.steps) == len(pictures[0].report.subjects[0].visual_to_textual) == evaluations


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (diffusers.FlowMatchEulerDiscreteScheduler(), "FlowMatch.* has no discrete noise schedule.*take DDIMScheduler"),
        (diffusers.PNDMScheduler(), "PNDMScheduler cannot take num_inference_steps 3: "),  # it starts with four
    ],
    ids=["no schedule", "too few steps"],
)
def test_a_scheduler_that_does_not_fit_is_refused(pipeline, subject, scheduler, message):
    swapped = RealCustomPipeline(**{**pipeline.components, "scheduler": scheduler})
    with pytest.raises(InputError, match=message):
        swapped(PROMPT, subject, "dog", num_inference_steps=3)


def test_saving_and_loading_gives_the_same_picture_bit_for_bit(pipeline, subject, tmp_path):
    pipeline.save_pretrained(tmp_path)
    loaded = RealCustomPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert dict(loaded.config)["num_inference_steps"] == STEPS
    outputs = [one(PROMPT, subject, "dog", generator=seeded(7), output_type="np") for one in (pipeline, loaded)]
    assert np.array_equal(*(output.images for output in outputs))
    assert outputs[0].report == outputs[1].report


def test_a_component_can_be_given_instead_of_loaded(tiny, pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    scheduler, adapter = tiny.scheduler("EulerDiscreteScheduler"), tiny.adapter(pipeline.unet)
    loaded = RealCustomPipeline.from_pretrained(tmp_path, scheduler=scheduler, adapter=adapter)
    assert loaded.scheduler is scheduler
    assert loaded.adapter is adapter


def test_a_callback_replaces_latents_and_sees_the_mask(run):
    seen = []

    def replace(pipeline, step, timestep, tensors):
        seen.append((step, int(timestep), tensors["mask"].clone()))
        return {"latents": torch.full_like(tensors["latents"], float(step))}

    output = run(callback_on_step_end=replace, callback_on_step_end_tensor_inputs=["latents", "mask"])
    assert torch.equal(output.images, torch.full((1, 4, 8, 8), STEPS - 1.0))
    assert [step for step, _, _ in seen] == list(range(STEPS))
    assert [timestep for _, timestep, _ in seen] == sorted((timestep for _, timestep, _ in seen), reverse=True)
    assert torch.equal(torch.stack([mask for _, _, mask in seen]), output.masks.steps)


def test_a_callback_can_interrupt_and_the_next_call_runs_to_its_end(run):
    def interrupt(pipeline, step, timestep, tensors):
        pipeline._interrupt = step == 1
        return {}

    assert len(run(callback_on_step_end=interrupt).masks.steps) == 2
    assert len(run().masks.steps) == STEPS


def test_a_callback_object_brings_its_own_tensor_names(run):
    class Watch(PipelineCallback):
        def __init__(self):
            super().__init__()
            self.names = []

        @property
        def tensor_inputs(self):
            return ["mask"]

        def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
            self.names.append(sorted(callback_kwargs))
            return callback_kwargs

    watch = Watch()
    run(callback_on_step_end=watch)
    assert watch.names == [["mask"]] * STEPS


def test_a_callback_can_read_how_long_the_call_is(run):
    seen = []
    run(callback_on_step_end=lambda pipeline, step, *_: seen.append((pipeline.num_timesteps, pipeline.interrupt)) or {})
    assert seen == [(STEPS, False)] * STEPS


@pytest.mark.parametrize("fails", [False, True])
def test_the_unet_is_left_as_it_was(run, pipeline, fails):
    def fail(*_):
        if fails:
            raise KeyboardInterrupt

    before = dict(pipeline.unet.attn_processors)
    try:
        run(callback_on_step_end=fail)
    except KeyboardInterrupt:
        assert fails
    after = pipeline.unet.attn_processors
    assert after.keys() == before.keys()
    assert all(after[name] is processor for name, processor in before.items())


def test_masks_and_report_say_where_and_how_strongly_the_subject_acted(pipeline, subject):
    output = pipeline([PROMPT, "two dogs"], subject, "dog", height=32, width=48, mask_scope=0.3)
    assert [picture.size for picture in output.images] == [(48, 32)] * 2
    assert output.masks.steps.shape == (STEPS, 2, 8, 12)
    assert output.masks.final.shape == (2, 8, 12)
    assert output.masks.steps.amin() == 0
    assert 0.99 < output.masks.steps.amax() <= 1
    assert torch.equal(output.masks.coverage, torch.full((STEPS, 2), 28 / 96))  # int(0.3 * 96) cells
    assert [word.pieces for word in output.report.subjects[0].words] == [("dog",), ("dog", "##s")]
    assert all(strength > 0 for step in output.report.subjects[0].visual_to_textual for strength in step)
    assert len(json.loads(json.dumps(output.report.to_dict()))["subjects"][0]["coverage"]) == STEPS


def test_a_step_without_the_subjects_branch_has_no_strength(run):
    assert run(mask_scope=0).report.subjects[0].visual_to_textual == [[None]] * STEPS
    assert run(subject_scale=0).report.subjects[0].visual_to_textual == [[None]] * STEPS


def test_a_binary_mask_is_0_or_1(run):
    assert run(mask_binary=True).masks.steps.unique().tolist() == [0, 1]


def test_a_mask_given_back_is_used_in_every_step(run):
    mask = run().masks.final
    output = run(mask=mask)
    assert torch.equal(output.masks.steps, mask.expand(STEPS, -1, -1, -1))
    assert torch.equal(run(mask=mask[0]).images, output.images)


def test_a_given_mask_can_bound_or_widen_the_words(run):
    half = torch.zeros(8, 8)
    half[:, :4] = 0.5
    found = run(mask_scope=0.5).masks.steps[0]
    assert torch.equal(
        run(mask_scope=0.5, mask=half, mask_mode="intersect").masks.steps[0], torch.minimum(found, half[None])
    )
    assert torch.equal(
        run(mask_scope=0.5, mask=half, mask_mode="union").masks.steps[0], torch.maximum(found, half[None])
    )
    with pytest.raises(InputError, match="mask_mode must be one of replace, intersect, union, but is 'add'"):
        run(mask=half, mask_mode="add")


def test_a_given_mask_may_have_any_size_and_transparency(run):
    exact = torch.rand(8, 8).mul(255).round() / 255
    picture = Image.fromarray((exact * 255).byte().numpy()).resize((120, 200), Image.Resampling.NEAREST)
    assert torch.allclose(run(mask=picture).masks.final[0], exact, atol=1e-6)
    clear = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    clear.paste((255, 255, 255, 255), (0, 0, 32, 64))
    assert run(mask=clear).masks.final[0].tolist() == [[1.0] * 4 + [0.0] * 4] * 8


def test_the_padding_of_a_reference_takes_no_part(tiny, subject):
    unet = tiny.unet()
    pipeline = tiny.pipeline(unet=unet, adapter=tiny.adapter(unet), num_inference_steps=1)
    seen, original = [], pipeline.adapter.act
    pipeline.adapter.act = lambda *args, **kwargs: seen.append(kwargs["present"]) or original(*args, **kwargs)
    for picture in (subject.crop((0, 0, 40, 20)), subject.crop((0, 0, 30, 30))):
        pipeline(PROMPT, picture, "dog", generator=seeded(0))
    assert seen[0][0].reshape(4, 4).tolist() == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]
    assert seen[1] is None


def test_latents_that_are_no_numbers_are_reported_and_not_shown(run):
    broken = {"latents": torch.full((1, 4, 8, 8), torch.nan)}
    with pytest.raises(NotANumber, match="not finite any more; take lower guidance scales"):
        run(callback_on_step_end=lambda *_: broken)


def test_pixels_that_are_no_numbers_are_reported_and_not_shown(tiny, subject):
    vae = tiny.autoencoder()
    vae.decoder.conv_in.bias.data.fill_(torch.nan)
    with pytest.raises(NotANumber, match="the decoded pixels are not finite any more; take the autoencoder in float32"):
        tiny.pipeline(vae=vae)(PROMPT, subject, "dog")


@pytest.mark.parametrize(("height", "width"), [(48, 16), (28, 40), (4, 32)])
def test_any_multiple_of_the_autoencoders_factor_is_a_size(run, height, width):
    output = run(height=height, width=width, output_type="pil")
    assert output.images[0].size == (width, height)
    assert output.masks.steps.shape == (STEPS, 1, height // 4, width // 4)


def test_text_to_image_needs_no_adapter_but_a_subject_does(pipeline, subject, plain):
    bare = RealCustomPipeline(
        **{**pipeline.components, "adapter": None, "num_inference_steps": 3, "guidance_scale": 3.0}
    )
    bare.set_progress_bar_config(disable=True)
    output = bare(PROMPT, generator=seeded(5), output_type="latent")
    assert torch.equal(output.images, plain)
    assert (output.masks, output.report) == (None, None)
    with pytest.raises(InputError, match="this model has no RealCustom adapter"):
        bare(PROMPT, subject, "dog")


def test_without_guidance_the_unconditional_branch_is_not_run(pipeline, monkeypatch):
    batches, stock = [], pipeline.unet.forward
    monkeypatch.setattr(
        pipeline.unet,
        "forward",
        lambda sample, *args, **kwargs: batches.append(len(sample)) or stock(sample, *args, **kwargs),
    )
    pipeline(PROMPT, guidance_scale=1)
    pipeline(PROMPT, guidance_scale=2)
    assert batches == [1] * STEPS + [2] * STEPS


def test_without_return_dict_the_output_is_a_plain_tuple(run):
    images, flagged, masks, report = run(return_dict=False)
    output = run()
    assert torch.equal(images, output.images)
    assert flagged is output.nsfw_content_detected is None
    assert torch.equal(masks.steps, output.masks.steps)
    assert report == output.report


@pytest.mark.parametrize(("output_type", "kind"), [("pil", list), ("np", np.ndarray), ("pt", torch.Tensor)])
def test_output_types_show_the_same_picture(run, output_type, kind):
    images = run(output_type=output_type).images
    assert isinstance(images, kind)
    pixels = {
        "pil": lambda: np.asarray(images[0]) / 255,
        "np": lambda: images[0],
        "pt": lambda: images[0].permute(1, 2, 0).numpy(),
    }
    np.testing.assert_allclose(pixels[output_type](), run(output_type="np").images[0], atol=0.51 / 255)


def test_a_kl_autoencoder_works_too(tiny, pipeline, subject):
    swapped = RealCustomPipeline(**{**pipeline.components, "vae": tiny.autoencoder_kl(), "num_inference_steps": 2})
    swapped.set_progress_bar_config(disable=True)
    pictures = [swapped(PROMPT, subject, "dog", generator=seeded(0), output_type="np").images for _ in range(2)]
    assert pictures[0].shape == (1, SIDE, SIDE, 3)
    assert np.array_equal(*pictures)


def test_half_precision_makes_nearly_the_same_picture(tiny, run, subject):
    half = tiny.pipeline().to(torch.bfloat16)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    mask = torch.ones(8, 8)  # given, since rounding may move a cell across the edge of the scope
    picture = half(PROMPT, subject, "dog", latents=noise, mask=mask, output_type="np").images
    full, other = (run(output_type="np", mask=mask, generator=seeded(seed)[0]).images for seed in (5, 6))
    # How far rounding goes depends on the processor, so it is held against how far another seed goes.
    assert np.square(picture - full).mean() < 0.03 * np.square(other - full).mean()


def test_calls_do_not_influence_each_other(run, pipeline):
    first = run().images
    config = copy.deepcopy(dict(pipeline.config))
    run(num_inference_steps=2, mask_scope=0.9, height=16, width=24)
    assert torch.equal(run().images, first)
    assert dict(pipeline.config) == config


@pytest.mark.parametrize(
    ("size", "box"), [((40, 20), (0, 8, 32, 24)), ((10, 20), (8, 0, 24, 32)), ((7, 7), (0, 0, 32, 32))]
)
def test_a_reference_is_padded_to_a_square_with_the_colour_of_its_border(size, box):
    picture = Image.new("RGB", size, (10, 200, 30))
    picture.paste((250, 0, 0), (size[0] // 2 - 2, size[1] // 2 - 2, size[0] // 2 + 2, size[1] // 2 + 2))
    fitted = np.asarray(fit_reference(picture, 32)).astype(int)
    assert fitted.shape == (32, 32, 3)
    outside = np.ones((32, 32), bool)
    outside[box[1] : box[3], box[0] : box[2]] = False
    assert (fitted[outside] == (10, 200, 30)).all()
    left, top, right, bottom = box
    assert fitted[(top + bottom) // 2, (left + right) // 2, 0] > 200


def test_transparency_becomes_white():
    picture = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (np.asarray(fit_reference(picture, 16)) == 255).all()


@pytest.mark.parametrize(
    ("layers", "message"),
    [("up_blocks", "must be a list of beginnings of names, but is the word 'up_blocks'"),
     (["up_blocks", "up_block.9"], r"no cross-attention layer begins with 'up_block\.9'; those .* lie in down_blocks\.0")],
)  # fmt: skip
def test_mask_layers_that_are_not_there_are_refused(tiny, layers, message):
    with pytest.raises(InputError, match=message):
        tiny.pipeline(mask_layers=layers)


def placing(tiny, steps):
    """Return a pipeline that places its tokens, and the list that will hold where they lie in each step."""
    unet = tiny.unet()
    pipeline = tiny.pipeline(unet=unet, adapter=tiny.adapter(unet, placed=True), num_inference_steps=steps)
    seen, original = [], pipeline.adapter.act
    pipeline.adapter.act = lambda *args, **kwargs: seen.append(kwargs["positions"]) or original(*args, **kwargs)
    return pipeline, seen


def in_the_middle():
    """Return a subject in the middle of a plain picture, so that the tokens' middle is the frame's."""
    plain = Image.new("RGB", (32, 32), "white")
    plain.paste("black", (8, 8, 24, 24))
    return plain


def test_the_scope_does_not_change_how_large_a_placed_subject_is(tiny, subject):
    pipeline, seen = placing(tiny, 1)
    for scope in (0.1, 0.6):
        pipeline(PROMPT, subject, "dog", mask_scope=scope, generator=seeded(0))
    assert torch.equal(*seen)


def test_the_frame_of_a_placed_subject_moves_slowly_from_the_middle(tiny, subject, monkeypatch):
    pipeline, seen = placing(tiny, 3)
    found = iter(torch.tensor([[[0.5, 0.4, 0.6]], [[0.7, 0.4, 0.6]], [[0.7, 0.4, 0.6]]]))
    monkeypatch.setattr("realcustom.customization.frame_of", lambda _: next(found))
    pipeline(PROMPT, in_the_middle(), "dog", generator=seeded(0))
    middles = torch.stack(seen).mean(dim=2)[:, 0]
    pace = 1 - np.exp(-2.44 / 3)
    one = 0.5 - 0.1 * pace, 0.4 + 0.1 * (1 - pace) ** 2
    two = 0.7 - 0.2 * (1 - pace), 0.7 - 0.2 * (1 - pace) ** 2
    expected = [[0.5, one[0]], [two[0], one[1]], [two[1], 0.4 + 0.1 * (1 - pace) ** 3]]
    torch.testing.assert_close(middles, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("settings", [{"num_inference_steps": 2}, {"num_inference_steps": 6}, {"mask_frozen_after": 1}])
def test_the_frame_of_a_placed_subject_goes_as_far_whatever_the_number_of_steps(tiny, monkeypatch, settings):
    """Also while the mask is kept."""
    pipeline, seen = placing(tiny, 4)
    monkeypatch.setattr("realcustom.customization.frame_of", lambda _: torch.tensor([[0.9, 0.5, 0.6]]))
    pipeline(PROMPT, in_the_middle(), "dog", generator=seeded(0), **settings)
    left = 0.4 * np.exp(-2.44)
    torch.testing.assert_close(seen[-1].mean(dim=1)[0], torch.tensor([0.9 - left, 0.5], dtype=torch.float32))


def test_frames_of_several_subjects_begin_where_their_masks_are(tiny, monkeypatch):
    pipeline, seen = placing(tiny, 1)
    found = iter(torch.tensor([[[0.5, 0.2, 0.6]], [[0.5, 0.8, 0.6]]]))
    monkeypatch.setattr("realcustom.customization.frame_of", lambda _: next(found))
    pipeline(
        "a dog and a cat",
        subjects=[Subject(in_the_middle(), "dog"), Subject(in_the_middle(), "cat")],
        generator=seeded(0),
    )
    middles = torch.stack(seen).mean(dim=2)[:, 0]
    torch.testing.assert_close(middles, torch.tensor([[0.5, 0.2], [0.5, 0.8]]))


def test_a_model_may_have_binary_masks(tiny, subject):
    binary = tiny.pipeline(mask_binary=True)
    assert binary(PROMPT, subject, "dog").masks.steps.unique().tolist() == [0, 1]
    assert len(binary(PROMPT, subject, "dog", mask_binary=False).masks.steps.unique()) > 2


@pytest.mark.parametrize(
    ("scope", "final", "counts"), [(0.5, 0.25, (32, 16)), (0.25, 0.5, (16, 16)), (0.5, 1, (32, 32))]
)
def test_the_scope_is_narrowed_in_the_second_half(tiny, subject, scope, final, counts):
    """Of 64 cells."""
    pipeline = tiny.pipeline(mask_binary=True, mask_scope=scope, final_mask_scope=final)
    made = pipeline(PROMPT, subject, "dog", num_inference_steps=5).masks.steps.flatten(1).sum(dim=1)
    assert made.tolist() == [counts[0]] * 3 + [counts[1]] * 2
    again = pipeline(PROMPT, subject, "dog", num_inference_steps=5, final_mask_scope=1.0).masks.steps
    assert again[4].sum() == 64 * scope


def test_a_threshold_is_narrowed_likewise(tiny, subject):
    pipeline = tiny.pipeline(mask_scope=0.9, final_mask_scope=0.0)
    counts = pipeline(PROMPT, subject, "dog", num_inference_steps=4, mask_threshold=True).masks.steps.flatten(1) > 0
    wide, narrow = counts.sum(dim=1).tolist()[:2], counts.sum(dim=1).tolist()[2:]
    assert min(wide) > max(narrow) == 0


@pytest.mark.parametrize(("frozen_after", "counts"), [(2, (32, 32)), (3, (32, 16)), ("never", (32, 16))])
def test_a_mask_that_is_frozen_in_the_first_half_is_not_narrowed(tiny, subject, frozen_after, counts):
    pipeline = tiny.pipeline(mask_scope=0.5, final_mask_scope=0.25, mask_frozen_after=frozen_after)
    made = pipeline(PROMPT, subject, "dog", num_inference_steps=4).masks.steps.flatten(1)
    assert tuple((made > 0).sum(dim=1).tolist()[::3]) == counts
    assert MaskSettings(mask_frozen_after=frozen_after).narrows(4) == (counts[1] == 16)


def test_a_mask_yields_to_the_words_after_the_subjects(tiny, subject, monkeypatch):
    monkeypatch.setattr(masks, "YIELDS_TO", 1.0)  # an untrained model attends to all words nearly alike
    pipeline = tiny.pipeline(mask_binary=True, mask_scope=1.0)

    def first(prompt, **more):
        return pipeline(prompt, subject, "dog", num_inference_steps=1, generator=seeded(0), **more).masks.steps[0]

    whole, yielded = first(PROMPT), first(PROMPT, mask_yields=True)
    assert whole.min() == 1
    assert 0 < yielded.sum() < whole.sum()
    assert torch.equal(first("a red dog", mask_yields=True), whole)  # nothing is behind it
    together = pipeline(
        [PROMPT, "a dog"], subject, "dog", num_inference_steps=1, generator=seeded(0, 0), mask_yields=True
    ).masks.steps[0]
    assert torch.equal(together, torch.cat([yielded, whole]))


def test_that_masks_yield_is_saved_with_a_model(tiny, tmp_path):
    tiny.pipeline(mask_yields=True).save_pretrained(tmp_path)
    assert RealCustomPipeline.from_pretrained(tmp_path).config.mask_yields


def test_half_of_a_run_is_half_of_its_evaluations(tiny, subject):
    """Heun's four steps are seven evaluations."""
    parts = {**tiny.pipeline().components, "scheduler": tiny.scheduler("HeunDiscreteScheduler")}
    pipeline = RealCustomPipeline(**parts, mask_binary=True, mask_scope=0.5, final_mask_scope=0.25)
    made = pipeline(PROMPT, subject, "dog", num_inference_steps=4).masks.steps.flatten(1).sum(dim=1)
    assert made.tolist() == [32] * 4 + [16] * 3
    frozen = pipeline(PROMPT, subject, "dog", num_inference_steps=4, mask_frozen_after=3).masks.steps
    assert frozen.flatten(1).sum(dim=1).tolist() == [32] * 7


@pytest.mark.parametrize(("mode", "joined"), [("intersect", torch.minimum), ("union", torch.maximum)])
def test_only_the_words_own_mask_is_narrowed(tiny, subject, mode, joined):
    half = torch.zeros(8, 8)
    half[:, :4] = 1
    pipeline = tiny.pipeline(mask_binary=True, mask_scope=0.5, final_mask_scope=0.25)

    def last(**given):
        numbers = {"num_inference_steps": 4, "subject_scale": 0, "generator": seeded(0)}
        return pipeline(PROMPT, subject, "dog", **numbers, **given).masks.final

    assert torch.equal(last(mask=half, mask_mode=mode), joined(last(), half[None]))


def test_the_narrowing_of_a_model_is_saved_with_it(tiny, tmp_path):
    tiny.pipeline(final_mask_scope=0.25, token_ratio=0.9).save_pretrained(tmp_path)
    config = RealCustomPipeline.from_pretrained(tmp_path).config
    assert (config.final_mask_scope, config.token_ratio) == (0.25, 0.9)


def test_a_model_may_keep_another_share_of_its_tokens(tiny, subject):
    every, few = ({"generator": seeded(0), "output_type": "pt", **more} for more in ({"token_ratio": 1.0}, {}))
    whole = tiny.pipeline(token_ratio=1.0)(PROMPT, subject, "dog", generator=seeded(0), output_type="pt").images
    assert torch.equal(tiny.pipeline()(PROMPT, subject, "dog", **every).images, whole)
    assert not torch.equal(tiny.pipeline()(PROMPT, subject, "dog", **few).images, whole)


def test_the_masks_of_a_run_can_be_given_back(run):
    first = run()
    again = run(mask=first.masks)
    assert torch.equal(again.masks.steps[0], first.masks.final)
    assert torch.equal(run(mask=first.masks.final.numpy()).images, again.images)


def test_a_reference_is_seen_as_viewers_show_it(subject):
    turned = subject.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    lying = io.BytesIO()
    turned.save(lying, "PNG", exif=exif)
    assert np.array_equal(np.asarray(fit_reference(Image.open(lying), 32)), np.asarray(fit_reference(subject, 32)))
    deep = Image.fromarray(np.asarray(subject.convert("L"), np.uint16) * 257)
    assert deep.mode == "I;16"
    difference = np.asarray(fit_reference(deep, 32), int) - np.asarray(fit_reference(subject.convert("L"), 32), int)
    assert abs(difference).max() <= 1


def test_a_model_without_a_vocabulary_is_refused(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    (tmp_path / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"1 missing: tokenizer/tokenizer\.json"):
        RealCustomPipeline.from_pretrained(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(InputError, match=r"model_index\.json cannot be read"):
        RealCustomPipeline.from_pretrained(tmp_path)


def test_the_subjects_guidance_scale_is_said_to_have_no_weight_where_it_has_none(run):
    def unused(guidance):
        advice = run(guidance=guidance, subject_guidance_scale=2.0).report.advice
        return any("subject_guidance_scale 2 had no weight" in said for said in advice)

    assert unused("direct")
    assert not unused("cascade")


def test_numbers_of_numpy_and_masks_of_any_kind_are_taken(run):
    plain = run(guidance_scale=2.0, mask_scope=0.5).images
    assert torch.equal(run(guidance_scale=np.float32(2), mask_scope=np.float64(0.5)).images, plain)
    one = np.zeros((8, 8), np.uint16)
    one[:, 4:] = 1
    expected = run(mask=torch.from_numpy(one.astype(np.float32))).images
    assert torch.equal(run(mask=one).images, expected)
    assert torch.equal(run(mask=one[:, ::-1][:, ::-1]).images, expected)


def test_a_pipeline_of_mixed_numbers_says_so(tiny, subject):
    mixed = tiny.pipeline()
    mixed.adapter.to(torch.float16)
    with pytest.raises(
        InputError, match=r"the adapter has numbers of type torch.float16 and the UNet of torch.float32"
    ):
        mixed(PROMPT, subject, "dog")


class TestLoadingArguments:
    @pytest.fixture
    def folder(self, pipeline, tmp_path):
        pipeline.save_pretrained(tmp_path)
        return tmp_path

    def test_a_type_of_numbers_may_be_told_by_its_name(self, folder):
        assert RealCustomPipeline.from_pretrained(folder, dtype="float16").unet.dtype == torch.float16
        with pytest.raises(InputError, match="dtype must be one of torch's floating point types"):
            RealCustomPipeline.from_pretrained(folder, dtype="half precision")

    def test_an_argument_that_is_not_known_is_refused(self, folder):
        with pytest.raises(InputError, match=r"from_pretrained takes no 'subfolder'"):
            RealCustomPipeline.from_pretrained(folder, subfolder="unet")
        with pytest.raises(InputError, match=r"takes no 'mask_scop'\. Did you mean 'mask_scope' or"):
            RealCustomPipeline.from_pretrained(folder, mask_scop=0.5)
        assert RealCustomPipeline.from_pretrained(folder, mask_scope=0.5).config.mask_scope == 0.5

    def test_a_part_that_must_be_there_cannot_be_none(self, folder):
        with pytest.raises(InputError, match="text_encoder must be a component, but is None"):
            RealCustomPipeline.from_pretrained(folder, text_encoder=None)

    def test_a_variant_is_read_where_there_is_one(self, pipeline, tmp_path):
        pipeline.save_pretrained(tmp_path, variant="fp16")
        pipeline.unet.save_pretrained(tmp_path / "unet")
        loaded = RealCustomPipeline.from_pretrained(tmp_path, variant="fp16")
        assert torch.equal(loaded.vae.decoder.conv_in.weight, pipeline.vae.decoder.conv_in.weight)
        with pytest.raises(InputError, match=r"3 missing: .*vae/diffusion_pytorch_model\.safetensors"):
            RealCustomPipeline.from_pretrained(tmp_path)

    def test_every_missing_file_is_named_with_its_place(self, folder):
        for name in ("unet/config.json", "vae/diffusion_pytorch_model.safetensors"):
            (folder / name).unlink()
        with pytest.raises(InputError, match="2 missing") as caught:
            RealCustomPipeline.from_pretrained(folder)
        for name in ("unet/config.json", "vae/diffusion_pytorch_model.safetensors"):
            assert f"{name} (looked for at {folder / name})" in str(caught.value)
