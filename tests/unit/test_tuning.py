"""The rivals that learn each subject anew, on tiny real components."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from transformers import AutoTokenizer

from realcustom.data.examples import collate
from realcustom.errors import InputError
from realcustom.evaluation.methods import IMAGE_PROMPT, Customized, Request, Shown
from realcustom.evaluation.output import Settings
from realcustom.loading import resolve
from realcustom.pipeline import RealCustomPipeline
from realcustom.training import tuning
from realcustom.training.loop import train
from realcustom.training.tuning import TOKEN, Tuned, TunedBase, TuningObjective, TuningRecipe, TuningSource, tune

TRAINING = {
    "max_train_steps": 3, "train_batch_size": 2, "learning_rate": 1e-2, "lr_warmup_steps": 0, "ema_decay": 0,
    "mixed_precision": "no", "dataloader_num_workers": 0, "logging_steps": 1, "checkpointing_steps": 1,
}  # fmt: skip
WAYS = {
    "textual-inversion": {"phrase": TOKEN, "unet": "nothing"},
    "dreambooth": {"phrase": "red {word}", "unet": "everything", "prior_pictures": 2},
    "custom-diffusion": {"phrase": TOKEN + " {word}", "initial": "red", "unet": "keys-values", "prior_pictures": 2},
}


def recipe(name, **changes):
    return TuningRecipe(**WAYS[name], training={**TRAINING, **changes})


@pytest.fixture(scope="module")
def picture(tiny):
    return np.asarray(tiny.subject().resize((32, 32)))


def changed(before, after):
    """Return the names of the parameters that are not the same."""
    return {name for name, one in after.items() if name in before and not torch.equal(one, before[name])}


class TestRecipe:
    @pytest.fixture(scope="class")
    def tokenizer(self):
        """That of the embedded model."""
        return AutoTokenizer.from_pretrained(resolve("stickers") / "tokenizer")

    @pytest.mark.parametrize(
        ("name", "prompt", "word", "noun", "expected"),
        [
            ("textual-inversion", "a dog on the beach", "dog", "dog", "a <subject> on the beach"),
            ("textual-inversion", "on a lake, an orange owl", "owl", "owl", "on a lake, an orange <subject>"),
            ("dreambooth", "a picture of an owl in the snow", "owl", "owl", "a picture of a red owl in the snow"),
            ("textual-inversion", "pancakes in the snow", "pancakes", "pancakes", "<subject> in the snow"),
            ("custom-diffusion", "a cat and a caterpillar", "cat", "cat", "a <subject> cat and a caterpillar"),
            ("dreambooth", "an animal in the snow", "animal", "owl", "a red owl in the snow"),
            ("textual-inversion", "a thing in the snow", "thing", "owl", "a <subject> in the snow"),
            ("dreambooth", "An owl in the snow", "owl", "owl", "A red owl in the snow"),
            ("dreambooth", "A Dog on the beach", "dog", "dog", "A red dog on the beach"),
            ("dreambooth", "puppies on the beach", "puppy", "puppy", "red puppy on the beach"),
            ("textual-inversion", "an ice  cube at night", "ice cube", "ice cube", "a <subject> at night"),
        ],
    )
    def test_a_prompt_calls_the_subject_by_the_phrase_as_it_was_learned(
        self, tokenizer, name, prompt, word, noun, expected
    ):
        assert recipe(name).prompt(prompt, word, noun, tokenizer) == expected

    def test_a_prompt_without_the_word_is_refused(self, tokenizer):
        with pytest.raises(InputError, match="'a dogma' does not say 'dog'"):
            recipe("dreambooth").prompt("a dogma", "dog", "dog", tokenizer)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"phrase": "red {word}", "unet": "nothing"}, "nothing is trained"),
            ({"phrase": "red {class}"}, "phrase may hold {word} and no other braces"),
            ({"phrase": "red {word.nope}"}, "phrase may hold {word} and no other braces"),
            ({"phrase": "red {word[0]}"}, "phrase may hold {word} and no other braces"),
            ({"phrase": "red {word", "unet": "everything"}, "phrase may hold {word} and no other braces"),
            ({"initial": "red"}, "initial would have no effect"),
            ({"prior_pictures": 0, "prior_weight": 2.0}, "prior_weight would have no effect"),
            ({"initial": " "}, "initial must not be empty"),
            ({"prior_pictures": 4, "training": {**TRAINING, "train_batch_size": 3}}, "must be even"),
        ],
    )
    def test_a_recipe_that_cannot_be_is_refused(self, changes, message):
        with pytest.raises(ValidationError, match=message):
            TuningRecipe(**{**WAYS["dreambooth"], "training": TRAINING, **changes})


def test_examples_alternate_between_the_subject_and_its_class():
    subject, prior = np.zeros((4, 4, 3), np.uint8), [np.full((4, 4, 3), 255, np.uint8)]
    source = TuningSource(subject, "red owl", "owl", prior, seed=0)
    for number in range(12):
        example = source[number]
        assert example.picture.max() == (255 if number % 2 else 0)
        assert ("an owl" if number % 2 else "a red owl") in example.caption
        assert example.caption == source[number].caption
    alone = TuningSource(subject, "red owl", "owl", [], seed=0)
    assert all(alone[number].picture.max() == 0 for number in range(4))


@pytest.mark.parametrize("name", WAYS)
def test_each_way_trains_what_its_paper_trains_and_leaves_the_base_alone(tiny, picture, tmp_path, name):
    base = tiny.pipeline()
    unet, text = (
        {key: value.clone() for key, value in part.state_dict().items()} for part in (base.unet, base.text_encoder)
    )
    words = len(base.tokenizer)
    tuned, seconds = tune(base, recipe(name), picture, "dog", tmp_path)
    assert seconds > 0
    assert not changed(unet, base.unet.state_dict())
    assert not changed(text, base.text_encoder.state_dict())
    assert len(base.tokenizer) == words
    trained = changed(unet, tuned.unet.state_dict())
    if name == "textual-inversion":
        assert not trained
    elif name == "dreambooth":
        assert len(trained) > 0.9 * len(unet)  # some gradients are zero in a net as small as this
    else:
        assert trained == {key for key in unet if "attn2.to_k" in key or "attn2.to_v" in key}
    embedding = "embeddings.word_embeddings.weight"
    after = tuned.text_encoder.state_dict()
    learned = name != "dreambooth"
    assert changed({key: value for key, value in text.items() if key != embedding}, after) == set()
    assert torch.equal(after[embedding][:words], text[embedding])
    assert len(after[embedding]) == len(tuned.tokenizer) == words + learned
    if learned:
        began_as = "dog" if name == "textual-inversion" else "red"
        distance = (after[embedding][-1] - text[embedding][base.tokenizer.convert_tokens_to_ids(began_as)]).abs()
        assert 0 < float(distance.max()) < 0.1  # three steps of at most a hundredth


def test_the_subject_is_learned(tiny, picture, tmp_path):
    """After some steps on one picture its error, on the same noise, is lower than that of the untuned base."""
    told = recipe("dreambooth", max_train_steps=40, learning_rate=1e-3)
    base = tiny.pipeline()
    tuned, _ = tune(base, told, picture, "dog", tmp_path)
    example = TuningSource(picture, "red dog", "dog", [], seed=0)
    batch, errors = collate([example[number] for number in range(16)]), []
    for one in (base, tuned):
        objective = TuningObjective(one, recipe("dreambooth").model_copy(update={"prior_pictures": 0}), picture, "dog")
        objective.model.eval()
        with torch.no_grad():
            errors.append(float(objective.loss(objective.model, batch, torch.Generator().manual_seed(5))[0]))
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize(
    ("pictures", "expected", "figures"),
    [(2, (1 + 9) / 2 + 3 * (4 + 16) / 2, {"loss/subject": 5}), (0, (1 + 4 + 9 + 16) / 4, {})],
)
def test_errors_on_the_class_count_as_much_as_is_said(tiny, picture, pictures, expected, figures):
    """Example n of a batch, from 1, is off by n, and the class is at the even ones."""
    told = recipe("dreambooth").model_copy(update={"prior_weight": 3.0, "prior_pictures": pictures})
    objective = TuningObjective(tiny.pipeline(), told, picture, "dog")
    batch = collate([TuningSource(picture, "red dog", "dog", [picture], seed=0)[number] for number in range(4)])
    off = torch.arange(1.0, 5.0)[:, None, None, None]
    loss, found = objective.loss(lambda noisy, text: noisy.target + off, batch, torch.Generator().manual_seed(0))
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert found == pytest.approx(figures, rel=1e-5)


def test_a_killed_tuning_goes_on_as_if_it_had_not_been(tiny, picture, tmp_path, monkeypatch):
    """Nothing is dropped out of the text encoder, and the base's pictures of the class are the same again.

    The seconds are those of both sessions: one for a step, a thousand for pictures of the base and for those at the end.
    """
    told, base = recipe("custom-diffusion", max_train_steps=4), tiny.pipeline()
    losses, loss, call, clock = [], TuningObjective.loss, RealCustomPipeline.__call__, [0.0]

    def slow(self, *given, **named):
        clock[0] += 1000
        return call(self, *given, **named)

    monkeypatch.setattr(tuning.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(RealCustomPipeline, "__call__", slow)
    whole, seconds = tune(base, told, picture, "dog", tmp_path / "whole")
    assert seconds == 2000

    def dying(self, *given):
        losses.append(1)
        if len(losses) == 3:
            raise KeyboardInterrupt
        clock[0] += 1
        return loss(self, *given)

    monkeypatch.setattr(TuningObjective, "loss", dying)
    with pytest.raises(KeyboardInterrupt):
        tune(base, told, picture, "dog", tmp_path / "killed")
    with pytest.raises(InputError, match="initial is 'cup' instead of 'red'"):
        tune(base, told.model_copy(update={"initial": "cup"}), picture, "dog", tmp_path / "killed")
    resumed, seconds = tune(base, told, picture, "dog", tmp_path / "killed")
    assert seconds == 1002 + 2 + 1000  # the pictures of the class were there already
    for one, other in ((whole.unet, resumed.unet), (whole.text_encoder, resumed.text_encoder)):
        assert not changed(one.state_dict(), other.state_dict())


def test_a_token_is_not_learned_for_two_text_encoders(tiny):
    base = RealCustomPipeline(**tiny.sdxl_parts())
    with pytest.raises(InputError, match="this base has two"):
        TunedBase(base, recipe("textual-inversion"), "dog")


class TestMethods:
    SETTINGS = Settings(num_inference_steps=2)

    def requests(self, picture):
        return [
            Request(f"a {noun} on the beach", seed, (Shown(f"{noun}-noto", noun, noun, Image.fromarray(picture)),))
            for seed, noun in enumerate(("dog", "dog", "cup"))
        ]

    def test_a_subject_is_tuned_once_and_only_the_last_one_is_kept(self, tiny, picture, tmp_path, monkeypatch):
        tunings = []
        monkeypatch.setattr(tuning.loop, "train", lambda *told, **more: tunings.append(told) or train(*told, **more))
        method = Tuned(tiny.pipeline(), recipe("custom-diffusion", max_train_steps=1), tmp_path)
        requests = self.requests(picture)
        made = method.make(requests, self.SETTINGS)
        assert [one.masks for one in made] == [None] * 3
        lines = [json.loads(line) for line in (tmp_path / "tuning.jsonl").read_text().splitlines()]
        assert [line["subject"] for line in lines] == ["dog-noto", "cup-noto"]
        assert {path.name for path in (tmp_path / "tuning").iterdir()} == {"cup-noto", "cup-noto.png", "dog-noto.png"}
        method.make(requests[2:], self.SETTINGS)
        assert len(tunings) == 2
        again = Tuned(tiny.pipeline(), recipe("custom-diffusion", max_train_steps=1), tmp_path)
        resumed = again.make(requests[2:], self.SETTINGS)[0].picture
        assert np.abs(np.asarray(resumed, int) - np.asarray(made[2].picture, int)).max() <= 1
        assert len((tmp_path / "tuning.jsonl").read_text().splitlines()) == 2

    def test_a_prompt_without_the_subjects_word_is_refused_before_any_tuning(self, tiny, picture, tmp_path):
        method = Tuned(tiny.pipeline(), recipe("custom-diffusion", max_train_steps=1), tmp_path)
        with pytest.raises(InputError, match="'a bird on the beach' does not say 'dog'"):
            method.make([replace(self.requests(picture)[0], prompt="a bird on the beach")], self.SETTINGS)
        assert not list(tmp_path.iterdir())

    def test_an_image_prompt_acts_everywhere(self, tiny, picture):
        made = Customized(tiny.pipeline()).make(self.requests(picture), replace(self.SETTINGS, **IMAGE_PROMPT))
        assert min(float(one.masks.min()) for one in made) == 1
        bound = Customized(tiny.pipeline()).make(self.requests(picture), self.SETTINGS)
        assert min(float(one.masks.min()) for one in bound) == 0
        assert Customized(tiny.pipeline()).describe() == {"method": "realcustom"}
