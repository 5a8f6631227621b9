"""What bases and adapters learn, and what is measured of it, on tiny real components and examples of known numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from diffusers import AutoencoderDC, DDPMScheduler
from safetensors.torch import load_file

from realcustom.data.examples import Example, PartlyTextOnly, collate
from realcustom.data.sources import DataOptions, open_source
from realcustom.data.stickers.drawings import Drawing, DrawingStore
from realcustom.data.stickers.scenes import SceneOptions
from realcustom.errors import InputError
from realcustom.prompts import TextStates, encode_prompts
from realcustom.training.adapter import (
    AdapterObjective,
    AdapterRecipe,
    JointObjective,
    JointRecipe,
    Reference,
    jittered,
    jittered_text,
)
from realcustom.training.autoencoder import AutoencoderObjective, AutoencoderRecipe
from realcustom.training.base import BaseObjective, BaseRecipe, chance, localisation, measure_text_only, noun_columns
from realcustom.training.diffusion import make_noisy
from realcustom.training.judges import JudgesObjective, JudgesRecipe, softened, true_regions
from realcustom.training.loop import train

ADAPTER = {"feature_dim": 16, "token_dim": 16, "scoring_dim": 8, "placed": True}
CAPTION = "a dog on the beach"
FACTS = {"place": "beach", "colour": "", "hue": "0", "noun": "of no drawing", "style": "noto"}


class Scenes:
    """Random pictures of 32 pixels with a thing in their left quarter, and a dog in the upper quarter."""

    def __init__(self, side: int = 32) -> None:
        self.side, self.shown = side, []

    def __getitem__(self, number: int) -> Example:
        self.shown.append(number)
        pixels = np.random.default_rng(number).integers(0, 256, (2, self.side, self.side, 3), np.uint8)
        above, left = np.zeros((2, self.side, self.side), np.float32)
        above[: self.side // 4], left[:, : self.side // 4] = 1, 1
        frames = (0.25, 0.5, 0.5), (0.5, 0.5, 0.4 + 0.1 * (number % 4))
        return Example(pixels[0], CAPTION, "dog", pixels[1], above, left, frames)


@pytest.fixture(scope="module")
def home(tiny, tmp_path_factory):
    """A folder with a base, an adapter for it whose subjects have an effect, and drawings."""
    home = tmp_path_factory.mktemp("objectives")
    pipeline = tiny.pipeline(adapter=None)
    pipeline.save_pretrained(home / "base")
    tiny.adapter(pipeline.unet, placed=True).save_pretrained(home / "adapter")
    drawings = [Drawing("cup", "toy", "noto", "cup", "train", common=True, held_out=False)]
    DrawingStore(drawings, np.full((1, 128, 128, 4), 200, np.uint8), np.zeros(1, np.float32)).save(home / "drawings")
    return home


def recipe(home, kind=JointRecipe, *, trained=True, training=None, **changes):
    stickers = {"source": "stickers", "folder": home / "drawings", "resolution": 32, "reference_resolution": 32}
    start = {"initial_adapter": home / "adapter"} if trained else {"adapter": ADAPTER}
    steps = {
        "max_train_steps": 3, "train_batch_size": 2, "learning_rate": 1e-3, "lr_warmup_steps": 0,
        "mixed_precision": "no", "dataloader_num_workers": 0, "checkpointing_steps": 2, "logging_steps": 1,
    }  # fmt: skip
    return kind(
        output_dir=home, data={**stickers, "scenes": {"backgrounds": 1}}, base=home / "base", validation_examples=2,
        drawn_examples=0, training={**steps, **(training or {})}, **{**start, **changes},
    )  # fmt: skip


def autoencoder(home, **changes):
    told = {"output_dir": home, "data": recipe(home).data, "training": recipe(home).training, **changes}
    vae = home / "base" / "vae"
    return AutoencoderObjective(AutoencoderRecipe(initial_autoencoder=vae, validation_examples=2, **told), Scenes())


def base(home, **changes):
    told = {"output_dir": home, "data": recipe(home).data, "training": recipe(home).training, **changes}
    return BaseObjective(
        BaseRecipe(
            autoencoder=home / "base" / "vae", text=home / "base", scheduler={}, validation_examples=2, **told,
            unet={"block_out_channels": [32], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"],
                  "cross_attention_dim": 32},
        ),
        Scenes(),
    )  # fmt: skip


def batch(*numbers):
    return collate([Scenes()[number] for number in numbers or (0, 1)])


def many(count):
    """Return as many examples, small ones, all the same and without their references."""
    one = batch(0)
    pixels = one.pixels[:, :, :8, :8].expand(count, -1, -1, -1)
    return replace(one, captions=one.captions * count, pixels=pixels, conditioned=False)


def seeded(seed=5):
    return torch.Generator().manual_seed(seed)


class TestMeasures:
    def test_localisation_is_the_overlap_with_as_many_cells_as_the_region_has(self):
        relevance = torch.zeros(2, 4, 4)
        relevance[0, :2, :2] = torch.tensor([[9.0, 8.0], [7.0, 1.0]])
        relevance[0, 3, 3] = 6.0  # is the fourth of the strongest, and outside
        relevance[1, 3] = 1.0
        regions = torch.zeros(2, 8, 8)
        regions[0, :4, :4] = 1.0
        regions[1, 6:] = 1.0
        assert localisation(relevance, regions) == pytest.approx((3 / 5 + 1) / 2)

    def test_chance_is_that_of_random_cells(self):
        regions = torch.zeros(2, 8, 8)
        regions[0, :4, :4], regions[1] = 1.0, 1.0
        assert chance(regions, (4, 4)) == pytest.approx((1 / 7 + 1) / 2)

    def test_the_columns_of_a_noun_are_those_of_all_its_tokens(self, tiny):
        tokenizer = tiny.tokenizer()
        shown = replace(
            batch(0, 1, 2), captions=["a dog", "the puppies and a cat", "a cup"], words=["dog", "puppies", ""]
        )
        text = encode_prompts(shown.captions, tokenizer, tiny.text_encoder(), shortest=True)
        pieces = [tokenizer.convert_ids_to_tokens(tokenizer(caption).input_ids) for caption in shown.captions]
        columns = noun_columns(shown, tokenizer, text).tolist()
        said = [
            [piece for piece, column in zip(row, on, strict=False) if column]
            for row, on in zip(pieces, columns, strict=True)
        ]
        assert said == [["dog"], ["pupp", "##ies"], []]
        assert sum(map(sum, columns)) == 3

    def test_errors_and_frames_of_a_base_that_attends_everywhere_alike(self, tiny):
        """The quarter of the grid that is taken is then its first cells: the upper one."""
        unet, shown = tiny.unet(), batch()
        for name, weight in unet.named_parameters():
            if "attn2.to_q" in name:
                weight.data.zero_()
        size = 1.25 * np.sqrt(12 * (1 / 256 + 63 / 768) / 2)  # of 2 x 8 cells of a grid of 8 x 8
        true = torch.tensor([[0.225, 0.5, size * np.exp(-0.1)], [0.125, 0.7, size * np.exp(-0.3)]])
        shown = replace(shown, frames=torch.stack([true, true], dim=1).float())
        shown = replace(shown, regions=torch.stack([shown.regions[0], shown.regions[0].flip(0)]))
        text = encode_prompts(shown.captions, tiny.tokenizer(), tiny.text_encoder(), shortest=True)
        scheduler = DDPMScheduler.from_config(tiny.scheduler().config)
        latents, noise, steps = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([500, 500])
        noisy = make_noisy(latents, scheduler, steps, noise)
        columns = noun_columns(shown, tiny.tokenizer(), text)
        with torch.no_grad():
            errors, figures = measure_text_only(unet, noisy, text, columns, shown, 500, ["up_blocks.1"])
            stock = unet(noisy.noisy, steps, text.states, encoder_attention_mask=text.keep).sample
        share = np.cumprod(1 - np.array(scheduler.config.trained_betas or scheduler.betas))[500]
        target = np.sqrt(share) * noise.numpy() - np.sqrt(1 - share) * latents.numpy()
        expected = ((stock.numpy() - target) ** 2).mean(axis=(1, 2, 3))
        np.testing.assert_allclose(errors, expected, rtol=1e-4)
        assert figures["error/500"] == pytest.approx(expected.mean(), rel=1e-4)
        assert figures["localisation/500"] == pytest.approx((1 + 0) / 2)
        assert figures["localisation/chance"] == pytest.approx(1 / 7)
        assert figures["frame_centre/500"] == pytest.approx(np.sqrt((0.1**2 + 0.2**2) / 4), rel=1e-4)
        assert figures["frame_size/500"] == pytest.approx(0.2, rel=1e-4)
        assert figures["frame_size_spread/500"] == pytest.approx(0.2 / np.sqrt(2), rel=1e-4)


class TestValidation:
    @pytest.mark.parametrize("kind", [(AdapterRecipe, AdapterObjective), (JointRecipe, JointObjective)])
    def test_an_adapter_that_adds_nothing_errs_exactly_as_the_base_does(self, home, kind):
        objective = kind[1](recipe(home, kind[0], trained=False), Scenes())
        with torch.no_grad():
            figures, picture = objective.validate(objective.model.eval())
        assert picture is None
        ratios = {name: value for name, value in figures.items() if name.split("/")[0] in ("right", "wrong")}
        assert ratios == {f"{name}/{step}": 1.0 for name in ("right", "wrong") for step in (100, 300, 500, 700, 900)}

    def test_right_and_wrong_are_ratios_to_the_error_without_a_reference(self, home):
        class Known(JointObjective):
            def predict(self, model, noisy, text, reference):
                is_right = torch.equal(reference.features, right.features)
                return noisy.target + (1 if is_right else 2)

        objective = Known(recipe(home), Scenes())
        right = objective.reference(objective.held_out.references, objective.held_out.frames, 1.0)
        with torch.no_grad():
            figures, _ = objective.validate(objective.model.eval())
        for step in (100, 500, 900):
            assert figures[f"right/{step}"] == pytest.approx(1 / figures[f"error/{step}"], rel=1e-5)
            assert figures[f"wrong/{step}"] == pytest.approx(4 / figures[f"error/{step}"], rel=1e-5)

    def test_another_subject_is_laid_out_by_the_frame_of_its_own_reference(self):
        """The middle of token (y, x) lies at the target's centre + scale (middle - the reference's centre)."""
        frames = torch.tensor([[[0.3, 0.4, 0.6], [0.5, 0.5, 0.3]], [[0.7, 0.6, 0.2], [0.4, 0.6, 0.8]]])
        features = torch.arange(2 * 4 * 3.0).view(2, 4, 3)
        more = (features + 100, [features + 200])
        others = Reference(features, frames, 1.0, more).of_others()
        assert torch.equal(others.features, features.flip(0))
        assert torch.equal(others.more[0], features.flip(0) + 100)
        assert torch.equal(others.more[1][0], features.flip(0) + 200)
        middles = np.array([(0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)])
        for row, (target, reference) in enumerate([(frames[0, 0], frames[1, 1]), (frames[1, 0], frames[0, 1])]):
            target, reference = target.numpy(), reference.numpy()
            expected = target[:2] + target[2] / reference[2] * (middles - reference[:2])
            np.testing.assert_allclose(others.positions[row], expected, rtol=1e-5)

    def test_tokens_of_an_adapter_that_does_not_place_them_lie_nowhere(self):
        assert Reference(torch.zeros(2, 4, 3), None, 1.0).of_others().positions is None


class Off(JointObjective):
    """Its prediction is off by 1 in the left half."""

    def predict(self, model, noisy, text, reference):
        off = torch.zeros_like(noisy.target)
        off[..., :4] = 1
        return noisy.target + off


class TestLoss:
    @pytest.mark.parametrize(("weight", "expected"), [(1, 4 / 8), (3, (2 * 3 + 2 * 1) / (2 * 3 + 6 * 1))])
    def test_an_error_on_a_thing_counts_as_much_as_is_said(self, home, weight, expected):
        """The thing is in two of eight columns, the error in four."""
        objective = Off(recipe(home, foreground_weight=weight), Scenes())
        loss, figures = objective.loss(objective.model, batch(), seeded())
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
        assert figures["loss/subject"] == pytest.approx(expected, rel=1e-5)

    def test_frames_in_the_pictures_err_as_much_as_is_said_and_those_in_the_references_do_not(self):
        frames = torch.tensor([[0.3, 0.6, 0.5], [0.5, 0.4, 0.8]]).expand(20000, 2, 3)
        moved = jittered(frames, 0.1, seeded())
        assert torch.equal(moved[:, 1], frames[:, 1])
        off = moved[:, 0] - frames[:, 0]
        assert off[:, :2].mean(dim=0).tolist() == pytest.approx([0, 0], abs=2e-3)
        assert off[:, :2].std(dim=0).tolist() == pytest.approx([0.05, 0.05], rel=0.03)
        sizes = (moved[:, 0, 2] / 0.5).log()
        assert (float(sizes.mean()), float(sizes.std())) == pytest.approx((0, 0.2), rel=0.03, abs=5e-3)
        assert torch.equal(moved, jittered(frames, 0.1, seeded()))
        assert torch.equal(jittered(frames, 0.0, seeded()), frames)

    def test_states_of_a_text_err_as_much_as_is_said(self):
        states = torch.randn(300, 5, 64, generator=seeded(1)) * torch.tensor([0.5, 1, 2, 3, 4])[:, None]
        text = TextStates(states, torch.ones(300, 5, dtype=torch.bool))
        moved = jittered_text(text, 0.6, seeded())
        shares = (moved.states - states).norm(dim=2) / states.norm(dim=2)
        torch.testing.assert_close(shares, shares[:, :1].expand_as(shares))  # of one text all alike
        assert (float(shares.min()), float(shares.mean()), float(shares.max())) == pytest.approx(
            (0, 0.3, 0.6), abs=0.03
        )
        off = (moved.states - states) / (moved.states - states).norm(dim=2, keepdim=True)
        assert float(off.mean(dim=(0, 1)).abs().max()) < 0.03  # in any direction
        assert moved.keep is text.keep
        assert torch.equal(jittered_text(text, 0.0, seeded()).states, states)

    def test_the_texts_that_a_model_learns_from_err_as_much_as_is_said(self, home):
        losses = []
        for jitter in (0.0, 0.5):
            objective = JointObjective(recipe(home, text_jitter=jitter), Scenes())
            seen = []
            objective.predict = lambda model, noisy, text, reference, seen=seen: seen.append(text) or noisy.target
            objective.loss(objective.model, batch(), seeded())
            losses.append(seen[0].states)
        shares = (losses[1] - losses[0]).norm(dim=2) / losses[0].norm(dim=2)
        assert float(shares.min()) > 0
        assert float(shares.max()) <= 0.5

    @pytest.mark.parametrize("kind", ["base", "joint"])
    def test_as_many_captions_are_empty_as_is_said(self, home, kind):
        """An empty one has two tokens."""
        if kind == "base":
            objective = base(home, caption_dropout=0.3)
            encoder = objective.text_encoder
        else:
            objective = JointObjective(recipe(home, caption_dropout=0.3), Scenes())
            encoder = objective.base.text_encoder
        lengths = []
        encoder.register_forward_pre_hook(
            lambda encoder, given, named: lengths.extend(named["attention_mask"].sum(dim=1).tolist()), with_kwargs=True
        )
        with torch.no_grad():
            objective.loss(objective.model, many(400), seeded())
        assert set(lengths) == {2, 7}
        assert lengths.count(2) / 400 == pytest.approx(0.3, abs=0.05)

    def test_an_adapter_learns_from_noisy_timesteps_as_often_as_is_said(self, home):
        objective, seen = AdapterObjective(recipe(home, AdapterRecipe, timestep_shift=3), Scenes()), []
        objective.predict = lambda model, noisy, text, reference: seen.append(noisy.timesteps) or noisy.target
        objective.loss(objective.model, many(400), seeded())
        assert float((seen[0] < 500).float().mean()) == pytest.approx(0.5 / (3 - 2 * 0.5), abs=0.05)

    def test_the_share_of_tokens_is_anything_from_the_lowest_to_all(self, home):
        objective, ratios = AdapterObjective(recipe(home, AdapterRecipe, lowest_token_ratio=0.4), Scenes()), []
        objective.reference = lambda pictures, frames, token_ratio: ratios.append(token_ratio)
        objective.predict = lambda model, noisy, text, reference: noisy.target
        shown = replace(many(1), conditioned=True)
        for seed in range(60):
            objective.loss(objective.model, shown, seeded(seed))
        assert 0.4 <= min(ratios) < 0.43
        assert 0.97 < max(ratios) <= 1
        assert (np.mean(ratios), np.std(ratios)) == pytest.approx((0.7, 0.6 / np.sqrt(12)), abs=0.03)

    def test_half_precision_rounds_neither_what_is_learned_nor_the_loss(self, tiny, home):
        objective, seen = base(home), []
        objective.autoencoder = tiny.autoencoder_kl()  # whose latents half precision rounds
        objective.model.register_forward_hook(
            lambda unet, given, made: seen.extend((given[0].dtype, made.sample.dtype))
        )
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = objective.loss(objective.model, batch(), seeded())
        assert (seen, loss.dtype) == ([torch.float32, torch.bfloat16], torch.float32)

    def test_the_scoring_gradient_is_that_of_the_step_before(self, home):
        objective = AdapterObjective(recipe(home, AdapterRecipe), Scenes())
        loss, figures = objective.loss(objective.model, batch(), seeded())
        assert figures["scoring_gradient"] == 0
        loss.backward()
        squares = sum(float(weight.grad.square().sum()) for weight in objective.adapter.scoring.parameters())
        assert squares > 0
        assert objective.loss(objective.model, batch(), seeded())[1]["scoring_gradient"] == pytest.approx(squares**0.5)

    @pytest.mark.parametrize(("conditioned", "name"), [(True, "loss/subject"), (False, "loss/text_only")])
    def test_only_a_conditioned_batch_shows_its_references(self, home, conditioned, name):
        objective = JointObjective(recipe(home), Scenes())
        shown = replace(batch(), conditioned=conditioned)
        loss, figures = objective.loss(objective.model, shown, seeded())
        assert name in figures
        other, _ = objective.loss(objective.model, replace(shown, references=-shown.references), seeded())
        assert torch.equal(loss, other) != conditioned


class TestExamplesOfAJointRun:
    def test_batches_without_a_reference_come_from_the_text_data(self, home):
        wide, narrow = ({"backgrounds": 1, "common_share": share} for share in (0, 1))
        data = {**recipe(home).data.model_dump(), "scenes": wide}
        text_data = {**data, "scenes": narrow}
        told = recipe(home, text_data=text_data, reference_dropout=0.5).model_copy(update={"data": DataOptions(**data)})
        examples = told.examples()
        batches = [[examples[2 * number + one] for one in (0, 1)] for number in range(20)]
        alike = {frozenset(one.conditioned for one in shown) for shown in batches}
        assert alike == {frozenset({True}), frozenset({False})}
        sources = {True: open_source(told.data, "train", 0), False: open_source(told.text_data, "train", 0)}
        for number, shown in enumerate(batches):
            same = sources[shown[0].conditioned][2 * number]
            assert np.array_equal(shown[0].picture, same.picture)
            assert shown[0].caption == same.caption

    @pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
    def test_as_many_batches_show_none_as_is_said(self, share):
        examples = PartlyTextOnly(Scenes(4), share, batch_size=3, seed=1)
        shown = [examples[3 * number].conditioned for number in range(400)]
        assert np.mean(shown) == pytest.approx(1 - share, abs=0.06)
        assert shown == [examples[3 * number + 2].conditioned for number in range(400)]
        assert share in (0, 1) or shown != [
            PartlyTextOnly(Scenes(4), share, batch_size=3, seed=2)[3 * number].conditioned for number in range(400)
        ]

    def test_a_batch_cannot_be_both(self):
        with pytest.raises(ValueError, match="shows all of its references or none"):
            collate([Scenes()[0], replace(Scenes()[1], conditioned=False)])


class TestRates:
    def test_every_weight_is_in_one_group(self, home):
        objective = JointObjective(recipe(home, scoring_rate=2, reach_rate=30), Scenes())
        groups = objective.parameter_groups()
        held = [id(one) for group in groups for one in group["params"]]
        assert sorted(held) == sorted(id(one) for one in objective.model.parameters())
        assert [(group.get("scale", 1), group.get("weight_decay")) for group in groups] == [
            (1, None),
            (2, None),
            (30, 0),
        ]

    def test_scoring_and_reaches_learn_as_fast_as_is_said(self, home, tmp_path):
        """The first step of Adam is as long as the rate, whatever the gradient."""
        told = recipe(
            home, AdapterRecipe, scoring_rate=2, reach_rate=30, training={"max_train_steps": 1, "adam_weight_decay": 0}
        )
        objective = AdapterObjective(told, Scenes())
        before = {name: weight.clone() for name, weight in objective.model.named_parameters()}
        train(objective, Scenes(), told.training, tmp_path)
        longest = {"scoring": 0.0, "log_precisions": 0.0, "to_v": 0.0}
        for name, weight in objective.model.named_parameters():
            part = name.split(".")[0]
            if part in longest:
                longest[part] = max(longest[part], float((weight - before[name]).detach().abs().max()))
        assert longest == pytest.approx({"scoring": 2e-3, "log_precisions": 3e-2, "to_v": 1e-3}, rel=0.02)


class TestAutoencoder:
    @pytest.mark.parametrize(
        ("weights", "expected"),
        [
            ({}, 0.25),
            ({"square_weight": 2}, 0.25 + 2 * 0.36 / 4),
            ({"edge_weight": 3}, 0.25 + 3 * (0.4 + 0.2)),
            ({"latent_penalty": 0.1}, 0.25 + 0.1 * 2**2),
        ],
    )
    def test_the_loss_is_the_weighted_sum_of_the_errors(self, home, weights, expected):
        """Each second row and column is off by the same; along a row the errors' mean step is .4, along a column .2."""
        off, seen = torch.tensor([[0.5, -0.1], [0.3, 0.1]]).repeat(16, 16), []
        plain = {"square_weight": 0, "edge_weight": 0, "latent_penalty": 0, "latent_noise": 0.5}
        objective, shown = autoencoder(home, **{**plain, **weights}), batch()
        model = SimpleNamespace(
            encoder=lambda pixels: torch.full((2, 4, 64, 64), 2.0),
            decoder=lambda latents: seen.append(latents) or shown.pixels + off,
        )
        loss, figures = objective.loss(model, shown, seeded())
        assert float(loss) == pytest.approx(expected, rel=1e-5)
        assert figures == pytest.approx({"psnr": 10 * np.log10(4 / 0.09), "latent_std": 2}, rel=1e-5)
        assert (float(seen[0].mean()), float(seen[0].std())) == pytest.approx((2, 0.5), abs=0.01)

    def test_errors_of_a_tenth_and_a_hundredth_of_the_range_are_20_and_40_decibels(self, home):
        objective = autoencoder(home)
        objective.held_out = torch.zeros(2, 3, 8, 8)
        off = torch.tensor([0.2, 0.02])[:, None, None, None]
        model = SimpleNamespace(encoder=lambda pixels: pixels, decoder=lambda latents: latents + off)
        figures, _ = objective.validate(model)
        mean = 10 * np.log10(2 / (0.1**2 + 0.01**2))
        assert figures == pytest.approx({"psnr": 30, "psnr_of_mean_error": mean}, rel=1e-5)

    @pytest.mark.parametrize("frozen", [False, True])
    def test_what_is_exported_scales_its_latents_to_one_unless_they_stay_what_they_were(self, home, tmp_path, frozen):
        objective = autoencoder(home, frozen_encoder=frozen)
        objective.export(objective.model, tmp_path)
        exported = AutoencoderDC.from_pretrained(tmp_path)
        with torch.no_grad():
            spread = float(exported.encode(objective.held_out).latent.std())
        assert exported.config.scaling_factor == pytest.approx(0.7 if frozen else 1 / spread, rel=1e-4)
        assert spread != pytest.approx(1 / 0.7, rel=0.1)


class TestJudges:
    @pytest.fixture
    def objective(self, home):
        told = recipe(home)
        data = told.data.model_copy(update={"reference": "drawing", "scenes": SceneOptions(beside_share=0.5)})
        small = {"widths": [16, 16, 16, 32], "identity_dim": 8}
        return JudgesObjective(
            JudgesRecipe(data=data, output_dir=home, judges=small, training=told.training, validation_examples=2),
            Scenes(),
        )

    def batch(self, *facts):
        return collate([replace(Scenes()[number], facts=FACTS | more) for number, more in enumerate(facts)])

    def test_what_is_beside_the_thing_is_a_region_of_its_own(self):
        thing, beside = true_regions(self.batch({"beside": "cat"}, {"worn": "crown"})).unbind(1)
        assert torch.equal(thing, batch().regions)
        assert beside[0, 8:, :8].eq(1).all()  # the thing hides the upper quarter of it
        assert beside[0].sum() == 24 * 8
        assert beside[1].sum() == 0
        with pytest.raises(InputError, match="a source that knows where its things are"):
            true_regions(replace(batch(), foregrounds=None))

    def test_scenes_are_shown_as_soft_as_smaller_pictures(self):
        board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1
        soft = softened(board.expand(64, 3, 16, 16), 2, torch.Generator().manual_seed(0))
        sharp = torch.tensor([torch.equal(one[0], board) for one in soft])
        assert 16 < sharp.sum() < 48
        assert soft[~sharp].abs().max() < 0.4  # the board is grey from afar
        assert torch.equal(softened(board.expand(2, 3, 16, 16), 1, torch.Generator()), board.expand(2, 3, 16, 16))

    def test_its_noun_is_learned_beside_the_things(self, objective):
        def learned(*facts):
            torch.manual_seed(0)
            return objective.loss(objective.model, self.batch(*facts), torch.Generator())[1]

        assert "noun" not in learned({}, {"worn": "crown"})
        assert "noun" in learned({}, {"beside": "cat"})
        assert learned({}, {"beside": "cat"})["region beside"] != learned({}, {"worn": "crown"})["region beside"]

    def test_scenes_cannot_be_softer_than_one_pixel(self, objective):
        with pytest.raises(InputError, match="softest is 33, but pictures have 32 pixels a side"):
            JudgesObjective(objective.recipe.model_copy(update={"softest": 33}), Scenes())


class TestDevices:
    def test_a_batch_moves_as_a_whole(self):
        moved = batch().to(torch.device("meta"))
        tensors = {name: value for name, value in vars(moved).items() if isinstance(value, torch.Tensor)}
        assert tensors.keys() == {"pixels", "references", "frames", "regions", "foregrounds"}
        assert {tensor.device.type for tensor in tensors.values()} == {"meta"}
        assert moved.captions == batch().captions
        assert not replace(batch(), conditioned=False).to(torch.device("meta")).conditioned
        assert replace(batch(), regions=None).to(torch.device("meta")).regions is None

    def test_what_is_held_out_is_where_the_model_is(self, home):
        told = recipe(home)
        judges = JudgesRecipe(
            output_dir=home, data=told.data.model_copy(update={"reference": "drawing"}), judges={"widths": [16] * 4},
            training=told.training, validation_examples=2,
        )  # fmt: skip
        for objective in (
            autoencoder(home), base(home), JudgesObjective(judges, Scenes()), JointObjective(told, Scenes())
        ):  # fmt: skip
            objective.prepare(torch.device("meta"))
            held = getattr(objective.held_out, "pixels", objective.held_out)
            assert held.device.type == "meta", type(objective)


class TestRuns:
    @pytest.mark.parametrize("name", ["adapter", "joint"])
    def test_a_killed_run_goes_on_as_if_it_had_not_been(self, home, tmp_path, name):
        if name == "adapter":
            told, kind = recipe(home, AdapterRecipe, trained=False), AdapterObjective
        else:
            text, kind = recipe(home).data, JointObjective
            told = recipe(
                home, trained=False, text_data=text, foreground_weight=3, timestep_shift=2, reach_rate=30,
                training={"seed": 1},
            )  # fmt: skip

        class Dying(kind):
            losses = 0

            def loss(self, *given):
                self.losses += 1
                if self.losses == 3:
                    raise KeyboardInterrupt
                return super().loss(*given)

        train(kind(told, Scenes()), told.examples(), told.training, tmp_path / "whole")
        torch.manual_seed(0)
        with pytest.raises(KeyboardInterrupt):
            train(Dying(told, Scenes()), told.examples(), told.training, tmp_path / "killed")
        torch.manual_seed(1)
        train(kind(told, Scenes()), told.examples(), told.training, tmp_path / "killed")
        for part in ("model", "average", "optimizer"):
            one, other = (
                load_file(tmp_path / run / "checkpoint-0000003" / f"{part}.safetensors") for run in ("whole", "killed")
            )
            assert one.keys() == other.keys()
            assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())
        logs = [(tmp_path / run / "log.jsonl").read_text().splitlines() for run in ("whole", "killed")]
        # The gradient of the step before is not in a checkpoint.
        one, other = ([{**json.loads(line), "hours": 0, "scoring_gradient": 0} for line in lines] for lines in logs)
        assert one == other
        figures = {figure for line in one for figure in line}
        assert {"loss/subject"} | ({"loss/text_only"} if name == "joint" else set()) <= figures

    def test_placed_tokens_that_are_no_square_grid_are_refused(self, tiny, home):
        """CLIP's class token lies nowhere."""
        clip = transformers.CLIPVisionConfig(
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=28,
            patch_size=7,
        )
        tiny._fixed(transformers.CLIPVisionModel, clip).save_pretrained(home / "clip")
        told = recipe(
            home, AdapterRecipe, trained=False, image_encoder=home / "clip",
            adapter={"feature_dim": 24, "token_dim": 24, "scoring_dim": 8, "placed": True},
        )  # fmt: skip
        with pytest.raises(InputError, match=r"17 tokens.*no square grid.*placed=False"):
            AdapterObjective(told, Scenes())
