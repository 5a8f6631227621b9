from __future__ import annotations

import json
import logging
from itertools import islice

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import DDPMScheduler
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from realcustom.data.examples import Example
from realcustom.errors import CheckpointMismatch, InputError
from realcustom.training import checkpoint, loop, recipes
from realcustom.training.adapter import JointRecipe
from realcustom.training.diffusion import draw_noisy, make_noisy, sample_errors
from realcustom.training.loop import noise_generator, train
from realcustom.training.options import TrainingOptions


class Pictures:
    """An endless source of random pictures."""

    def __getitem__(self, number: int) -> Example:
        pixels = np.random.default_rng(number).integers(0, 256, (2, 2, 3), np.uint8)
        return Example(pixels, f"picture {number}", "picture", pixels)


class Denoising:
    """A tiny net with every kind of state: weights, buffers and something frozen."""

    def __init__(self, *, seed: int = 0, dies_at_loss: int | None = None, width: int = 6) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(
            nn.Flatten(), nn.Linear(12, width), nn.BatchNorm1d(width), nn.SiLU(), nn.Linear(width, 12)
        )
        self.model[1].bias.requires_grad_(False)
        self.dies_at_loss, self.losses, self.exported = dies_at_loss, 0, []

    def prepare(self, device):
        pass

    def parameter_groups(self):
        first, second = list(self.model[1:3].parameters()), list(self.model[4].parameters())
        return [{"params": [weight for weight in first if weight.requires_grad], "scale": 0.5}, {"params": second}]

    def loss(self, model, batch, generator):
        self.losses += 1
        self.autocast = torch.is_autocast_enabled("cpu")
        if self.losses == self.dies_at_loss:
            raise KeyboardInterrupt
        noise = torch.randn(batch.pixels.shape, generator=generator)
        error = (model(batch.pixels + noise) - noise.flatten(1)).square().mean()
        return error, {"noise": float(noise.abs().mean())}

    def validate(self, model):
        assert not model.training
        return {"weights": float(sum(parameter.abs().sum() for parameter in model.parameters()))}, None

    def export(self, model, folder):
        self.exported.append((model, folder))


class Convolving(Denoising):
    """The same with convolutions, whose weights lie in memory in another order than their indices say."""

    def __init__(self, **more: object) -> None:
        super().__init__(**more)
        self.model = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, 3, 3, padding=1), nn.Flatten()
        )

    def parameter_groups(self):
        return [{"params": list(self.model.parameters())}]


def options(**changes) -> TrainingOptions:
    settings = {
        "max_train_steps": 7, "train_batch_size": 3, "learning_rate": 1e-2, "lr_warmup_steps": 2, "lr_decay_steps": 3,
        "mixed_precision": "no", "dataloader_num_workers": 0, "logging_steps": 1, "validation_steps": 3,
        "checkpointing_steps": 2, "ema_decay": 0.7,
    }  # fmt: skip
    return TrainingOptions(**{**settings, **changes})


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


class TestLoop:
    @pytest.fixture(autouse=True)
    def _any_precision(self):
        """Accelerate takes one for a process."""
        AcceleratorState._reset_state()
        yield
        AcceleratorState._reset_state()

    @pytest.mark.parametrize(
        ("accumulated", "dies_at_loss", "more"),
        [(1, 6, {"mixed_precision": "bf16", "dataloader_num_workers": 1}), (2, 12, {}), (2, 11, {}), (2, 10, {})],
    )
    def test_a_killed_run_goes_on_as_if_it_had_not_been(self, tmp_path, accumulated, dies_at_loss, more):
        settings = options(gradient_accumulation_steps=accumulated, **more)
        whole = train(Denoising(), Pictures(), settings, tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            train(Denoising(dies_at_loss=dies_at_loss), Pictures(), settings, tmp_path / "killed")
        resumed = Denoising(seed=1)
        progress = train(resumed, Pictures(), settings, tmp_path / "killed")
        assert resumed.losses == (7 - 4) * accumulated
        assert resumed.autocast == (settings.mixed_precision == "bf16")
        assert (progress.step, progress.examples) == (whole.step, whole.examples) == (7, 21 * accumulated)
        for name in ("model", "average", "optimizer"):
            one, other = (
                load_file(tmp_path / run / "checkpoint-0000007" / f"{name}.safetensors") for run in ("whole", "killed")
            )
            assert one.keys() == other.keys()
            assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())

    def test_the_state_of_convolutions_comes_back_in_their_order(self, tmp_path):
        train(Convolving(), Pictures(), options(), tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            train(Convolving(dies_at_loss=6), Pictures(), options(), tmp_path / "killed")
        resumed = Convolving(seed=1)
        train(resumed, Pictures(), options(), tmp_path / "killed")
        assert resumed.model[0].weight.is_contiguous(memory_format=torch.channels_last)
        for name in ("model", "optimizer"):
            one, other = (
                load_file(tmp_path / run / "checkpoint-0000007" / f"{name}.safetensors") for run in ("whole", "killed")
            )
            assert all(torch.equal(tensor, other[key]) for key, tensor in one.items())

    def test_the_log_of_a_killed_run_is_that_of_an_uninterrupted_one(self, tmp_path):
        train(Denoising(), Pictures(), options(), tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            train(Denoising(dies_at_loss=6), Pictures(), options(), tmp_path / "killed")
        assert log(tmp_path / "killed")[-1]["step"] == 5
        train(Denoising(seed=1), Pictures(), options(), tmp_path / "killed")
        one, other = ([{**line, "hours": 0} for line in log(tmp_path / run)] for run in ("whole", "killed"))
        assert one == other
        assert [line["step"] for line in one if "loss" in line] == [1, 2, 3, 4, 5, 6, 7]

    def test_a_log_whose_last_line_was_torn_does_not_stop_the_run(self, tmp_path):
        train(Denoising(), Pictures(), options(max_train_steps=5), tmp_path)
        with (tmp_path / "log.jsonl").open("a") as stream:
            stream.write('{"step": 6, "lo')
        train(Denoising(), Pictures(), options(), tmp_path)
        assert [line["step"] for line in log(tmp_path) if "loss" in line] == [1, 2, 3, 4, 5, 6, 7]

    def test_the_hours_are_those_of_steps_validation_checkpoints_and_all_sessions(self, tmp_path, monkeypatch):
        class Slow(Denoising):
            def loss(self, model, batch, generator):
                clock[0] += 3600
                return super().loss(model, batch, generator)

            def validate(self, model):
                clock[0] += 10 * 3600
                return super().validate(model)

            def export(self, model, folder):
                clock[0] += 100 * 3600

        clock = [0.0]
        monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
        train(Slow(), Pictures(), options(max_train_steps=5), tmp_path, spent=7200)
        hours = {
            "loss": [2 + 1, 2 + 2, 2 + 103, 2 + 114, 2 + 215],  # a validation after step 3, an export after 2 and 4
            "validation/weights": [2 + 113, 2 + 225],
        }
        assert {name: [line["hours"] for line in log(tmp_path) if name in line] for name in hours} == hours
        clock[0] += 1e6
        assert train(Slow(), Pictures(), options(max_train_steps=6), tmp_path).seconds == 3600 * (2 + 325 + 111)

    def test_accumulating_gradients_equals_one_larger_batch(self, tmp_path):
        class Plain(Denoising):
            def loss(self, model, batch, generator):
                return model[4](model[3](model[1](batch.pixels.flatten(1)))).square().mean(), {}

        for folder, changes in (
            ("many", {"gradient_accumulation_steps": 2, "train_batch_size": 3}),
            ("one", {"train_batch_size": 6}),
        ):
            train(Plain(), Pictures(), options(**changes), tmp_path / folder)
        one, other = (load_file(tmp_path / run / "checkpoint-0000007" / "model.safetensors") for run in ("many", "one"))
        for name, tensor in one.items():
            torch.testing.assert_close(tensor, other[name])

    def test_a_step_is_that_of_adamw_on_the_clipped_gradient(self, tmp_path):
        """The first gradient is too long; the second is not, and stays as it is."""

        class Linear(Denoising):
            def __init__(self):
                self.model = nn.Linear(3, 2).double()
                self.scales = iter([1.0, 0.1, 3.0])

            def parameter_groups(self):
                return [{"params": list(self.model.parameters())}]

            def loss(self, model, batch, generator):
                inputs.append(batch.pixels[:, :, 0, 0].double())
                scales.append(next(self.scales))
                return scales[-1] * (model(inputs[-1]) - 3).square().sum(dim=1).mean(), {}

            def export(self, model, folder):
                pass

        inputs, scales, objective = [], [], Linear()
        weights = {name: weight.detach().numpy().copy() for name, weight in objective.model.named_parameters()}
        settings = options(
            max_train_steps=3, lr_warmup_steps=2, lr_decay_steps=1, adam_beta2=0.8, adam_weight_decay=0.5,
            max_grad_norm=2.0,
        )  # fmt: skip
        train(objective, Pictures(), settings, tmp_path)
        first = second = {"weight": 0.0, "bias": 0.0}
        norms, rates = [], [0.005, 0.01, 0.01]
        for step, (shown, scale, rate) in enumerate(zip(inputs, scales, rates, strict=True), start=1):
            shown = shown.numpy()
            error = 2 * scale * (shown @ weights["weight"].T + weights["bias"] - 3) / len(shown)
            gradients = {"weight": error.T @ shown, "bias": error.sum(axis=0)}
            norms.append(np.sqrt(sum((gradient**2).sum() for gradient in gradients.values())))
            shrunk = {name: gradient * min(1, 2.0 / norms[-1]) for name, gradient in gradients.items()}
            first = {name: 0.9 * first[name] + 0.1 * gradient for name, gradient in shrunk.items()}
            second = {name: 0.8 * second[name] + 0.2 * gradient**2 for name, gradient in shrunk.items()}
            for name in weights:
                size = np.sqrt(second[name] / (1 - 0.8**step)) + 1e-8
                weights[name] = (1 - rate * 0.5) * weights[name] - rate * first[name] / (1 - 0.9**step) / size
        assert norms[0] > 2.0 > norms[1]
        for name, weight in objective.model.named_parameters():
            np.testing.assert_allclose(weight.detach().numpy(), weights[name], rtol=1e-6)
        told = [line for line in log(tmp_path) if "loss" in line]
        assert [line["grad_norm"] for line in told] == pytest.approx(norms)
        assert [line["learning_rate"] for line in told] == pytest.approx(rates)

    def test_frozen_weights_stay_and_all_others_move(self, tmp_path):
        objective = Denoising()
        before = {name: weight.clone() for name, weight in objective.model.named_parameters()}
        train(objective, Pictures(), options(), tmp_path)
        moved = {name for name, weight in objective.model.named_parameters() if not torch.equal(weight, before[name])}
        assert moved == set(before) - {"1.bias"}

    def test_the_average_is_the_exponential_one_and_is_what_is_exported(self, tmp_path):
        objective = Denoising()
        train(objective, Pictures(), options(checkpointing_steps=1, checkpoints_total_limit=9), tmp_path)
        folders = sorted(tmp_path.glob("checkpoint-*"))
        average = load_file(folders[0] / "model.safetensors")
        for folder in folders[1:]:
            weights = load_file(folder / "model.safetensors")
            average = {name: 0.7 * average[name] + 0.3 * weight for name, weight in weights.items()}
        found = load_file(folders[-1] / "average.safetensors")
        exported, place = objective.exported[-1]
        assert place == tmp_path / "export"
        for name in ("1.weight", "2.weight", "4.bias"):
            torch.testing.assert_close(found[name], average[name])
            assert torch.equal(exported.state_dict()[name], found[name])

    def test_a_loss_that_is_no_number_stops_the_run(self, tmp_path):
        class Broken(Denoising):
            def loss(self, model, batch, generator):
                return super().loss(model, batch, generator)[0] * float("nan"), {}

        with pytest.raises(FloatingPointError, match=r"the loss is nan at step 1; lower training\.learning_rate"):
            train(Broken(), Pictures(), options(), tmp_path)

    def test_the_batches_of_one_step_differ_in_examples_and_noise(self, tmp_path):
        class Watching(Denoising):
            def loss(self, model, batch, generator):
                seen.append((*batch.captions, float(torch.rand((), generator=generator))))
                return super().loss(model, batch, generator)

        seen = []
        train(Watching(), Pictures(), options(gradient_accumulation_steps=2), tmp_path)
        assert [caption for batch in seen for caption in batch[:-1]] == [f"picture {number}" for number in range(42)]
        assert len({noise for *_, noise in seen}) == len(seen) == 14

    @pytest.mark.parametrize("first_batch", [0, 3])
    def test_processes_share_the_examples_among_them(self, first_batch):
        one, other = (list(islice(loop._numbers(first_batch, 4, process, 2), 5)) for process in (0, 1))
        assert {len(batch) for batch in one + other} == {4}
        assert sorted(number for batch in one + other for number in batch) == list(
            range(first_batch * 8, first_batch * 8 + 40)
        )

    @pytest.mark.parametrize("before", [True, False])
    def test_how_attention_is_computed_is_changed_for_the_steps_alone(self, tmp_path, before):
        class Dying(Denoising):
            def loss(self, model, batch, generator):
                inside.append(ways())
                raise KeyboardInterrupt

        def ways():
            """Switches of every device, whatever their names."""
            return backends.fp16_bf16_reduction_math_sdp_allowed(), backends.flash_sdp_enabled()

        backends, inside = torch.backends.cuda, []
        found = ways()
        try:
            backends.allow_fp16_bf16_reduction_math_sdp(before)
            with pytest.raises(KeyboardInterrupt):
                train(Dying(), Pictures(), options(), tmp_path)
            assert (inside, ways()) == ([(True, False)], (before, found[1]))
        finally:
            backends.allow_fp16_bf16_reduction_math_sdp(found[0])

    def test_every_batch_has_noise_of_its_own(self):
        draws = {
            tuple(torch.randn(3, generator=noise_generator(seed, batch, process)).tolist())
            for seed in (0, 1) for batch in (0, 1) for process in (0, 1) for _ in range(2)
        }  # fmt: skip
        assert len(draws) == 8


class TestCheckpoint:
    @pytest.fixture
    def parts(self):
        """Model, average and an optimiser that has taken a step."""
        return self.stepped(nn.Linear(3, 2))

    @staticmethod
    def stepped(model):
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        return model, nn.Linear(3, 2), optimizer

    def save(self, folder, parts, step, limit=2):
        return checkpoint.save(folder, *parts, checkpoint.Progress(step=step), limit)

    def test_the_newest_whole_one_is_found_by_number(self, tmp_path, parts):
        assert checkpoint.latest(tmp_path) is None
        for step in (9, 10):
            self.save(tmp_path, parts, step)
        assert checkpoint.latest(tmp_path).name == "checkpoint-0000010"

    def test_a_partial_one_is_ignored_and_replaced(self, tmp_path, parts):
        whole = self.save(tmp_path, parts, 3)
        partial = tmp_path / ".checkpoint-0000005.partial"
        partial.mkdir()
        (partial / "model.safetensors").write_bytes(b"half")
        assert checkpoint.latest(tmp_path) == whole
        assert self.save(tmp_path, parts, 5) == checkpoint.latest(tmp_path)
        assert not partial.exists()

    def test_a_save_that_fails_leaves_no_checkpoint(self, tmp_path, parts, monkeypatch):
        whole = self.save(tmp_path, parts, 3)
        monkeypatch.setattr(checkpoint.json, "dumps", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            self.save(tmp_path, parts, 5)
        assert checkpoint.latest(tmp_path) == whole

    def test_only_the_newest_are_kept(self, tmp_path, parts):
        for step in (1, 2, 9, 10, 11):
            self.save(tmp_path, parts, step, limit=3)
        kept = sorted(path.name for path in tmp_path.iterdir())
        assert kept == ["checkpoint-0000009", "checkpoint-0000010", "checkpoint-0000011"]

    def test_everything_comes_back(self, tmp_path, parts):
        path = checkpoint.save(tmp_path, *parts, checkpoint.Progress(step=4, examples=40, seconds=1.5), 1)
        others = self.stepped(nn.Linear(3, 2))
        assert checkpoint.restore(path, *others) == checkpoint.Progress(step=4, examples=40, seconds=1.5)
        for one, other in zip(parts[:2], others[:2], strict=True):
            assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
        for one, other in zip(parts[0].parameters(), others[0].parameters(), strict=True):
            states = parts[2].state[one], others[2].state[other]
            assert states[0].keys() == states[1].keys()
            assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())

    def test_another_model_is_refused(self, tmp_path, parts):
        path, other = self.save(tmp_path, parts, 1), nn.Linear(3, 5)
        with pytest.raises(CheckpointMismatch, match=r"2 of another shape: bias \(\(2,\) instead of \(5,\)\), weight"):
            checkpoint.restore(path, other, other, torch.optim.AdamW(other.parameters()))
        other = nn.Sequential(nn.Linear(3, 2))
        with pytest.raises(CheckpointMismatch, match=r"2 missing: 0\.bias, 0\.weight; 2 unexpected: bias, weight"):
            checkpoint.restore(path, other, other, torch.optim.AdamW(other.parameters()))

    def test_another_optimizer_is_refused(self, tmp_path, parts):
        path = self.save(tmp_path, parts, 1)
        parts[0].bias.requires_grad_(False)
        with pytest.raises(CheckpointMismatch, match=r"optimizer.* 1 unexpected: bias"):
            checkpoint.restore(path, *parts)

    def test_an_optimizer_state_of_another_shape_is_refused(self, tmp_path, parts):
        path = self.save(tmp_path, parts, 1)
        state = load_file(path / "optimizer.safetensors")
        state["bias/exp_avg"] = torch.zeros(1)
        save_file(state, path / "optimizer.safetensors")
        with pytest.raises(CheckpointMismatch, match="1 of another shape: bias/exp_avg"):
            checkpoint.restore(path, *parts)

    def test_a_checkpoint_that_lacks_a_file_is_refused(self, tmp_path, parts):
        path = self.save(tmp_path, parts, 1)
        (path / "optimizer.safetensors").unlink()
        with pytest.raises(InputError, match=r"lacks optimizer\.safetensors; delete it"):
            checkpoint.restore(path, *parts)

    def test_a_weight_that_has_not_had_a_gradient_yet_does_not_stop_the_resume(self, tmp_path, parts):
        model, average, optimizer = parts
        model.register_parameter("unused", nn.Parameter(torch.ones(2)))
        average.register_parameter("unused", nn.Parameter(torch.ones(2)))
        path = self.save(tmp_path, (model, average, optimizer), 1)
        assert checkpoint.restore(path, model, average, optimizer).step == 1


class TestOptions:
    @pytest.mark.parametrize(
        ("step", "share"),
        [(0, 0.25), (1, 0.5), (3, 1.0), (4, 1.0), (5, 1.0), (6, 0.8), (7, 0.6), (9, 0.2), (10, 0.0)],
    )
    def test_the_learning_rate_warms_up_stays_and_decays_to_zero(self, step, share):
        settings = options(max_train_steps=10, lr_warmup_steps=4, lr_decay_steps=5, learning_rate=3e-3)
        assert settings.learning_rate_at(step) == pytest.approx(3e-3 * share)

    def test_without_phases_the_learning_rate_is_constant(self):
        settings = options(lr_warmup_steps=0, lr_decay_steps=0)
        assert {settings.learning_rate_at(step) for step in range(7)} == {1e-2}

    def test_no_precision_may_be_written_as_yaml_reads_it(self):
        assert options(mixed_precision=False).mixed_precision == "no"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"mixed_precision": "fp16"}, "'no' or 'bf16'"),
            ({"adam_beta2": 1.0}, "less than 1"),
            ({"adam_weight_decay": -0.1}, "greater than or equal to 0"),
            ({"ema_decay": 1.0}, "less than 1"),
            ({"ema_decay": float("nan")}, "less than 1"),
        ],
    )
    def test_numbers_that_no_run_can_use_are_refused(self, changes, message):
        """Half precision needs a scale of the loss, which no checkpoint holds."""
        with pytest.raises(ValidationError, match=message):
            options(**changes)

    def test_phases_longer_than_the_run_are_refused(self):
        with pytest.raises(
            ValidationError,
            match=r"lr_warmup_steps \(5\) and lr_decay_steps \(3\) together exceed max_train_steps \(7\)",
        ):
            options(lr_warmup_steps=5)


class TestRecipe:
    @staticmethod
    def recipe(folder, **changes):
        steps = {"max_train_steps": 400, "train_batch_size": 2, "learning_rate": 1e-3}
        return JointRecipe.model_validate(
            {
                "output_dir": folder,
                "data": {"source": "stickers", "folder": "drawings", **changes.pop("data", {})},
                "training": {**steps, **changes.pop("training", {})},
                "base": "base",
                **changes,
            }
        )  # fmt: skip

    @pytest.fixture
    def begun(self, tmp_path):
        """A folder with the beginning of a run."""
        recipes.record(self.recipe(tmp_path), tmp_path)
        (tmp_path / "checkpoint-0000002").mkdir()
        return tmp_path

    def test_the_record_is_the_whole_recipe(self, begun):
        told = json.loads((begun / "recipe.json").read_text())
        assert (told["base"], told["data"]["scenes"]["tilt"], told["training"]["seed"]) == ("base", 8.0, 0)
        assert JointRecipe.model_validate(told) == self.recipe(begun)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"data": {"scenes": {"tilt": 2}}}, r"data\.scenes\.tilt is 2\.0 instead of 8\.0"),
            ({"reference_dropout": 0.25}, r"reference_dropout is 0\.25 instead of 0\.5"),
            ({"text_data": {"source": "stickers", "folder": "other"}}, r"text_data is .* instead of None"),
            ({"training": {"seed": 1}}, r"training\.seed is 1 instead of 0"),
            ({"training": {"train_batch_size": 4}}, r"training\.train_batch_size is 4 instead of 2"),
            (
                {"training": {"gradient_accumulation_steps": 2}},
                r"training\.gradient_accumulation_steps is 2 instead of 1",
            ),
            ({"base": "other"}, r"base is 'other' instead of 'base'"),
            ({"adapter": {"token_dim": 8}}, r"adapter is \{'token_dim': 8\} instead of \{\}"),
            ({"initial_adapter": "one", "finer": True}, r"initial_adapter is 'one' instead of None; finer is True"),
        ],
    )
    def test_a_run_does_not_go_on_with_other_examples_or_from_other_weights(self, begun, changes, message):
        with pytest.raises(InputError, match=rf"begun with another recipe: {message}.*another output_dir"):
            recipes.check_changes(self.recipe(begun, **changes), begun)

    def test_what_else_has_changed_is_told(self, begun, caplog):
        changed = {
            "training": {"max_train_steps": 500, "learning_rate": 2e-3},
            "reach_rate": 30,
            "foreground_weight": 3,
        }
        with caplog.at_level(logging.INFO):
            recipes.check_changes(self.recipe(begun), begun)
            assert not caplog.messages
            recipes.check_changes(self.recipe(begun, **changed), begun)
        assert caplog.messages == [
            "going on with a changed recipe: training.max_train_steps is 500 instead of 400; "
            "training.learning_rate is 0.002 instead of 0.001; foreground_weight is 3.0 instead of 1.0; "
            "reach_rate is 30.0 instead of 1.0"
        ]

    def test_what_an_older_version_did_not_record_had_its_default(self, begun):
        told = json.loads((begun / "recipe.json").read_text())
        del told["data"]["scenes"]["tilt"], told["text_data"]
        (begun / "recipe.json").write_text(json.dumps({**told, "an_option_of_then": 1}))
        recipes.check_changes(self.recipe(begun), begun)
        with pytest.raises(InputError, match=r"data\.scenes\.tilt is 2\.0 instead of 8\.0"):
            recipes.check_changes(self.recipe(begun, data={"scenes": {"tilt": 2}}), begun)

    @pytest.mark.parametrize("gone", ["checkpoint-0000002", "recipe.json"])
    def test_a_folder_without_a_checkpoint_or_a_record_takes_any_recipe(self, begun, gone):
        (begun / gone).rename(begun / "gone")
        recipes.check_changes(self.recipe(begun, base="other"), begun)

    def test_a_record_that_cannot_be_read_is_named(self, begun):
        (begun / "recipe.json").write_text("{")
        with pytest.raises(InputError, match=r"recipe\.json cannot be read as JSON"):
            recipes.check_changes(self.recipe(begun), begun)


class TestDiffusion:
    TIMESTEPS = torch.tensor([0, 400, 999])

    @staticmethod
    def scheduler(prediction_type):
        return DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=prediction_type)

    @pytest.fixture
    def shares(self):
        """The signal's and the noise's share at each timestep, by the cosine schedule's own definition."""
        bar = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
        cumulative = torch.from_numpy(np.cumprod(1 - betas)).float()[self.TIMESTEPS]
        return cumulative.sqrt()[:, None, None, None], (1 - cumulative).sqrt()[:, None, None, None]

    @pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
    def test_noise_and_target_follow_the_schedule(self, shares, kind):
        signal, spread = shares
        clean, noise = torch.randn(2, 3, 4, 5, 6)
        batch = make_noisy(clean, self.scheduler(kind), self.TIMESTEPS, noise)
        target = {"epsilon": noise, "v_prediction": signal * noise - spread * clean, "sample": clean}[kind]
        torch.testing.assert_close(batch.noisy, signal * clean + spread * noise, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(batch.target, target, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(batch.alpha, signal.flatten(), atol=1e-4, rtol=1e-4)

    def test_another_prediction_type_is_refused(self):
        scheduler = self.scheduler("epsilon")
        scheduler.register_to_config(prediction_type="flow")
        with pytest.raises(InputError, match="but the scheduler says 'flow'"):
            make_noisy(torch.zeros(3, 1, 2, 2), scheduler, self.TIMESTEPS, torch.zeros(3, 1, 2, 2))

    def test_all_that_is_random_comes_from_the_generator(self):
        clean, scheduler = torch.randn(64, 1, 2, 2), self.scheduler("epsilon")
        one, other, third = (draw_noisy(clean, scheduler, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
        assert torch.equal(one.noisy, other.noisy)
        assert not torch.equal(one.timesteps, third.timesteps)
        assert 0 <= one.timesteps.min() < 200 < 800 < one.timesteps.max() < 1000

    @pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
    def test_a_shift_draws_noisy_timesteps_more_often(self, shift):
        """Below the share x of the schedule lie x / (s - (s - 1) x) of them."""
        clean = torch.zeros(40000, 1, 1, 1)
        drawn = draw_noisy(
            clean, self.scheduler("epsilon"), torch.Generator().manual_seed(0), timestep_shift=shift
        ).timesteps
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):
            below = share / (shift - (shift - 1) * share)
            assert float((drawn < 1000 * share).float().mean()) == pytest.approx(below, abs=0.01)

    def test_the_error_is_each_samples_own_mean_square(self):
        batch = make_noisy(torch.zeros(3, 1, 2, 2), self.scheduler("sample"), self.TIMESTEPS, torch.zeros(3, 1, 2, 2))
        prediction = torch.arange(12.0).reshape(3, 1, 2, 2)
        assert sample_errors(prediction, batch).tolist() == [3.5, 31.5, 91.5]
