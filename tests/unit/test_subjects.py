"""Several subjects in one picture, several pictures of one subject, saved subjects, and the time in which each acts."""

from __future__ import annotations

from dataclasses import replace

import accelerate
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import save_file

from realcustom import SavedSubject, Subject, masks
from realcustom.errors import InputError
from realcustom.masks import exclusive

PROMPT, SIDE, STEPS = "a dog and a cat on the beach", 32, 4


def picture(colour="orange", shape="ellipse"):
    drawn = Image.new("RGB", (32, 32), "white")
    getattr(ImageDraw.Draw(drawn), shape)((5, 5, 26, 26), fill=colour)
    return drawn


@pytest.fixture
def pipe(tiny):
    return tiny.pipeline()


@pytest.fixture
def run(pipe):
    def call(*subjects, prompt=PROMPT, **changes):
        chosen = {"num_inference_steps": STEPS, "height": SIDE, "width": SIDE, "output_type": "np", **changes}
        generator = torch.Generator().manual_seed(0)
        return pipe(prompt, subjects=list(subjects), generator=generator, **chosen)

    return call


DOG, CAT = Subject(picture(), "dog"), Subject(picture("blue", "rectangle"), "cat")


def test_one_subject_in_a_list_is_the_subject_alone(pipe, run):
    alone = pipe(
        PROMPT, picture(), "dog", num_inference_steps=STEPS, height=SIDE, width=SIDE, output_type="np",
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    listed = run(DOG)
    assert np.array_equal(alone.images, listed.images)
    assert torch.equal(alone.masks.each, listed.masks.each)


def test_both_subjects_act_and_each_is_reported(run):
    both = run(DOG, CAT)
    assert both.masks.each.shape == (STEPS, 2, 1, 8, 8)
    assert [one.words[0].text for one in both.report.subjects] == ["dog", "cat"]
    for one in both.report.subjects:
        assert all(step[0] > 0 for step in one.visual_to_textual)
        assert len(one.overlaps) == STEPS
    for single in (run(DOG), run(CAT)):
        assert not np.allclose(both.images, single.images, atol=1e-4)


def test_the_order_of_subjects_does_not_matter(run):
    one, other = run(DOG, CAT), run(CAT, DOG)
    np.testing.assert_allclose(one.images, other.images, atol=1e-4)
    torch.testing.assert_close(one.masks.each, other.masks.each.flip(1), atol=1e-4, rtol=0)


def test_each_subjects_mask_yields_to_the_words_behind_its_own(run, monkeypatch):
    monkeypatch.setattr(masks, "YIELDS_TO", 1.0)  # an untrained model attends to all words nearly alike
    one, other = (run(*order, mask_yields=True, mask_scope=1.0).masks.each for order in ((DOG, CAT), (CAT, DOG)))
    torch.testing.assert_close(one, other.flip(1), atol=1e-4, rtol=0)
    assert (one > 0).sum() < (run(DOG, CAT, mask_scope=1.0).masks.each > 0).sum()


def test_a_subject_of_scale_zero_leaves_the_other_its_words_mask(run):
    alone, beside = run(DOG), run(DOG, Subject(picture("blue"), "cat", scale=0.0))
    assert beside.report.subjects[1].visual_to_textual == [[None]] * STEPS
    half = torch.zeros(8, 8)
    half[:, :4] = 1
    left, right = Subject(picture(), "dog", mask=half), Subject(picture("blue"), "cat", mask=1 - half, scale=0.0)
    np.testing.assert_allclose(run(left, right).images, run(left).images, atol=1e-5)
    assert alone.masks.each.shape[1] == 1


def test_masks_that_meet_are_shared_out(run):
    left, right = torch.zeros(8, 8), torch.zeros(8, 8)
    left[:, :5], right[:, 3:] = 1, 1
    each = run(Subject(picture(), "dog", mask=left), Subject(picture("blue"), "cat", mask=right)).masks.each[-1, :, 0]
    assert torch.equal(each[0, :, :3], torch.ones(8, 3))
    assert torch.equal(each[1, :, 5:], torch.ones(8, 3))
    torch.testing.assert_close(each[:, :, 3:5], torch.full((2, 8, 2), 0.5))
    overlapping = run(Subject(picture(), "dog", mask=left), Subject(picture("blue"), "cat", mask=left))
    assert any("'dog': the mask overlaps another subject's by 100%" in said for said in overlapping.report.advice)


def test_exclusive_masks_add_up_to_the_mask_and_prefer_the_more_relevant():
    masks = torch.ones(3, 1, 4, 4)
    masks[2] = 0
    relevance = torch.rand(3, 1, 4, 4)
    shared = exclusive(masks, relevance)
    torch.testing.assert_close(shared.sum(dim=0), torch.ones(1, 4, 4))
    assert torch.equal(shared[0] > shared[1], relevance[0] > relevance[1])
    assert torch.equal(shared[2], masks[2])
    soft = torch.rand(1, 1, 4, 4)
    assert torch.equal(exclusive(soft, torch.rand(1, 1, 4, 4)), soft)


def test_a_subject_acts_only_in_its_time(run):
    late = run(Subject(picture(), "dog", start=0.5), CAT)
    dog, cat = late.report.subjects
    assert [step[0] is None for step in dog.visual_to_textual] == [True, True, False, False]
    assert all(step[0] is not None for step in cat.visual_to_textual)
    never = run(Subject(picture(), "dog", start=0.99))
    plain = run(Subject(picture(), "dog", scale=0.0))
    assert np.array_equal(never.images, plain.images)


def test_several_pictures_of_one_subject(run):
    one = run(DOG).images
    twice = run(Subject([picture(), picture()], "dog")).images
    np.testing.assert_allclose(twice, one, atol=1e-3)  # attention over the same tokens twice
    mixed = run(Subject([picture(), picture("blue")], "dog")).images
    assert np.abs(mixed - one).max() > 1e-3


def test_a_picture_that_is_given_twice_is_one_of_twice_the_weight(run):
    one, other = picture(), picture("blue", "rectangle").crop((0, 0, 32, 20))
    twice = run(Subject([one, one, other], "dog")).images
    np.testing.assert_allclose(run(Subject([one, other], "dog", weights=[2, 1])).images, twice, atol=1e-4)
    assert np.abs(run(Subject([one, other], "dog")).images - twice).max() > 1e-3


def test_a_subject_is_taken_from_a_part_of_a_picture(run):
    group = Image.new("RGB", (64, 32), "white")
    group.paste(picture(), (32, 0))
    cut = run(Subject(group, "dog", box=(32, 0, 64, 32)))
    assert np.array_equal(cut.images, run(DOG).images)


def test_two_subjects_of_one_noun_are_told_apart_by_occurrence(run):
    said = "a dog and a dog on the beach"
    both = run(Subject(picture(), "dog", 1), Subject(picture("blue"), "dog", 2), prompt=said)
    words = [one.words[0] for one in both.report.subjects]
    assert words[0].start < words[1].start
    with pytest.raises(
        InputError, match="two subjects have the word 'dog', or a part of it; tell them apart with occurrence=1"
    ):
        run(Subject(picture(), "dog", 1), Subject(picture("blue"), "dog", 1), prompt=said)


@pytest.mark.parametrize(("subjects", "times"), [(1, 4), (3, 1)])
def test_what_is_known_of_a_subject_is_held_once_for_all_its_pictures(pipe, subjects, times):
    encoder, pictures = pipe.subject_encoder, [picture(colour) for colour in ("orange", "navy", "teal")[:subjects]]
    device, dtype = torch.device("cpu"), torch.float32
    seen = [encoder.examine(one) for one in pictures]
    with torch.no_grad():
        one = encoder.reference(pipe.adapter, pictures, seen, device, dtype)
    many = one.repeated(times)
    for name, pair in many.keys_values.items():
        for held, single in zip(pair, one.keys_values[name], strict=True):
            assert held.shape[0] == subjects * times
            assert held.untyped_storage().nbytes() == single.untyped_storage().nbytes()
            assert torch.equal(held, single.repeat_interleave(times, dim=0))


def test_several_pictures_of_several_subjects_lie_subject_by_subject(pipe):
    encoder, pictures = pipe.subject_encoder, [picture("orange"), picture("navy")]
    seen = [encoder.examine(one) for one in pictures]
    with torch.no_grad():
        one = encoder.reference(pipe.adapter, pictures, seen, torch.device("cpu"), torch.float32)
    many = one.repeated(2)
    assert torch.equal(many.tokens, one.tokens[[0, 0, 1, 1]])
    assert torch.equal(many.frames, one.frames[[0, 0, 1, 1]])


def test_several_pictures_of_a_call_are_as_those_of_calls_of_their_own(pipe):
    prompts = ["a cat and a dog in the snow", "the dog on a red cat"]
    chosen = {"num_inference_steps": STEPS, "height": SIDE, "width": SIDE, "output_type": "np"}
    noise = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    together = pipe(prompts, subjects=[DOG, CAT], generator=noise, **chosen)
    for row, prompt in enumerate(prompts):
        alone = pipe(prompt, subjects=[DOG, CAT], generator=torch.Generator().manual_seed(row + 1), **chosen)
        np.testing.assert_allclose(together.images[row], alone.images[0], atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "dog.png"}, "subject_image must be a PIL picture or a saved subject, but is a str"),
        ({"image": []}, "needs at least one picture"),
        ({"word": 7}, "word of a subject must be a text"),
        ({"occurrence": 0}, "occurrence must be at least 1"),
        ({"scale": "much"}, "subject_scale must be a number"),
        ({"mask_mode": "union"}, "mask_mode 'union' was given without mask"),
        ({"start": 0.8, "end": 0.2}, "start must lie before end, but they are 0.8 and 0.2"),
        ({"start": -1}, "start must be a share from 0 to 1"),
        ({"weights": [1.0, 2.0]}, "weights must be a number from 0.001 to 1000 for each of the 1 pictures"),
        ({"weights": [0.0]}, "weights must be a number from"),
        ({"box": (0, 0, 99, 9)}, r"box \(0, 0, 99, 9\) reaches beyond the picture of 32 x 32"),
        ({"box": (9, 0, 3, 9)}, "box must be left, top, right and bottom"),
        ({"image": [picture(), picture()], "box": (0, 0, 9, 9)}, "box says which part of one picture"),
    ],
)
def test_a_wrong_subject_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Subject(**{"image": picture(), "word": "dog", **changes})


def test_the_two_ways_of_saying_it_do_not_mix(pipe):
    for name, given in (("subject_image", picture()), ("subject_word", "dog"), ("mask", torch.ones(8, 8))):
        with pytest.raises(InputError, match=f"{name} was given beside subjects"):
            pipe(PROMPT, subjects=[DOG], **{name: given})
    with pytest.raises(InputError, match=r"subjects must be a list of realcustom\.Subject"):
        pipe(PROMPT, subjects=[picture()])


class TestSaved:
    """A subject that is saved once."""

    @pytest.fixture
    def saved(self, pipe, tmp_path):
        subject = pipe.subject_encoder.remember(picture(), pipe.adapter, "dog", "drawn here, CC0")
        subject.save(tmp_path / "dog.subject.safetensors")
        return tmp_path / "dog.subject.safetensors"

    def test_makes_the_very_picture(self, run, saved):
        subject = SavedSubject.load(saved)
        assert (subject.word, subject.note) == ("dog", "drawn here, CC0")
        assert np.array_equal(np.asarray(subject.preview), np.asarray(picture()))
        assert np.array_equal(run(Subject(subject, "dog"), CAT).images, run(DOG, CAT).images)
        mixed = Subject([subject, picture("blue")], "dog")
        plain = Subject([picture(), picture("blue")], "dog")
        np.testing.assert_allclose(run(mixed).images, run(plain).images, atol=1e-5)

    def test_is_refused_by_the_name_of_its_encoder(self, tiny, saved):
        other = tiny.pipeline()
        with torch.no_grad():
            next(other.vae.encoder.parameters()).add_(1)
        name = SavedSubject.load(saved).encoder
        with pytest.raises(InputError, match=f"the saved subject 'dog' was seen by {name}, but this model sees with"):
            other(PROMPT, subjects=[Subject(SavedSubject.load(saved), "dog")], num_inference_steps=1)

    def test_cannot_be_checked_while_its_encoders_numbers_are_away(self, pipe, saved):
        accelerate.cpu_offload(pipe.vae, torch.device("cpu"))
        with pytest.raises(InputError, match=r"numbers are away from the module; take enable_model_cpu_offload"):
            pipe.subject_encoder.require(SavedSubject.load(saved), pipe.adapter)

    def test_is_never_overwritten_unasked(self, saved):
        subject = SavedSubject.load(saved)
        with pytest.raises(InputError, match="exists"):
            subject.save(saved)
        subject.save(saved, overwrite=True)
        with pytest.raises(InputError, match=r"must end in \.subject\.safetensors"):
            subject.save(saved.with_name("dog.safetensors"))

    def test_a_damaged_file_is_named(self, saved, tmp_path):
        whole = saved.read_bytes()
        for cut in (0, 10, len(whole) // 2, len(whole) - 1):
            saved.write_bytes(whole[:cut])
            with pytest.raises(InputError, match=r"cannot be read as a saved subject|is no whole saved subject"):
                SavedSubject.load(saved)
        save_file({"deep": torch.zeros(1, 4, 8)}, tmp_path / "other.subject.safetensors")
        with pytest.raises(InputError, match="holds no saved subject"):
            SavedSubject.load(tmp_path / "other.subject.safetensors")

    @pytest.mark.parametrize("told", ["5", "null", "[" * 100_000, '{"portrait": 3}'])
    def test_what_a_strange_file_says_is_refused(self, saved, told):
        with safe_open(str(saved), "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_file(tensors, saved, {"format": "realcustom.subject.1", "subject": told})
        with pytest.raises(InputError, match="is no whole saved subject"):
            SavedSubject.load(saved)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_is_known_to_a_copy_of_its_encoder_in_fewer_digits(self, tiny, saved, dtype):
        copy = tiny.pipeline()
        copy.to(dtype=dtype)
        copy.subject_encoder.require(SavedSubject.load(saved), copy.adapter)
        again = tiny.pipeline()
        with torch.no_grad():
            next(again.vae.encoder.parameters()).mul_(1.5)
        with pytest.raises(InputError, match="was seen by"):
            again.subject_encoder.require(SavedSubject.load(saved), again.adapter)

    def test_half_precision_features_are_read_as_float32(self, saved):
        with safe_open(str(saved), "pt") as file:
            tensors, told = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        save_file({**tensors, "deep": tensors["deep"].to(torch.bfloat16)}, saved, told)
        assert SavedSubject.load(saved).features.deep.dtype == torch.float32


def test_subjects_that_never_act_together_share_no_cell(run):
    everywhere = torch.ones(8, 8)
    first = replace(DOG, mask=everywhere, end=0.5)
    second = replace(CAT, mask=everywhere, start=0.5)
    masks = run(first, second).masks.each[:, :, 0]  # [steps, subjects, h, w]
    for step in range(STEPS):
        acting = 0 if step < STEPS // 2 else 1
        assert (masks[step, acting] == 1).all()
    together = run(replace(DOG, mask=everywhere), replace(CAT, mask=everywhere)).masks.each[:, :, 0]
    assert (together < 1).all()


def test_a_subject_of_scale_zero_takes_no_cell_of_another(run):
    everywhere = torch.ones(8, 8)
    masks = run(replace(DOG, mask=everywhere), replace(CAT, mask=everywhere, scale=0.0)).masks.each
    assert (masks[:, 0] == 1).all()


def test_a_picture_in_which_a_subject_does_not_act_says_no_strength(pipe):
    chosen = {"guidance": "direct", "mask_source": "previous", "num_inference_steps": STEPS, "output_type": "np"}
    made = pipe(
        PROMPT, picture(), "dog", num_images_per_prompt=2, subject_scale=[1.0, 0.0], height=SIDE, width=SIDE, **chosen
    )
    for acted, twin in made.report.subjects[0].visual_to_textual:
        assert acted > 0
        assert twin is None
    assert not any("raise subject_scale" in sentence for sentence in made.report.advice)


def test_masks_and_report_can_be_read_as_keys(run):
    made = run(DOG)
    assert made["masks"] is made.masks
    assert made["report"] is made.report
    assert len(made.to_tuple()) == 3


def test_a_mode_of_masks_beside_subjects_is_refused(pipe):
    with pytest.raises(InputError, match="mask_mode was given beside subjects"):
        pipe(PROMPT, subjects=[DOG], mask_mode="union")


@pytest.mark.parametrize("flag", ["mask_threshold", "mask_refined", "mask_binary", "mask_yields"])
def test_a_flag_is_true_or_false(run, flag):
    with pytest.raises(InputError, match=flag):
        run(DOG, **{flag: "yes"})
