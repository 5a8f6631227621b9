"""The one training loop: it knows batches, gradients, averages, logs and checkpoints, and nothing of what is learned.

Everything random is a function of the run's seed and the step: the examples (`ExampleSource` is addressed by number) and
the noise (a generator is seeded anew for every batch). A killed run therefore goes on exactly as if it had not been.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from realcustom.data.examples import Batch, Example, ExampleSource, collate
from realcustom.files import write_whole
from realcustom.training import checkpoint
from realcustom.training.options import TrainingOptions

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)


class Objective(Protocol[Model]):
    """What a run learns."""

    model: Model
    """Whose parameters with `requires_grad` are trained; its whole state is saved."""

    def prepare(self, device: torch.device) -> None:
        """Move the frozen parts and what is held out to the device."""

    def loss(self, model: Model, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the loss to be minimised, a scalar, and figures for the log.

        `model` is the wrapped `self.model`; the batch is on its device.
        """
        ...

    def parameter_groups(self) -> list[dict]:
        """Return the optimiser's groups; an optional `scale` multiplies the learning rate of a group."""
        ...

    def validate(self, model: Model) -> tuple[dict[str, float], Image.Image | None]:
        """Return validation figures of `model`, the averaged weights, and a picture to look at."""
        ...

    def export(self, model: Model, folder: Path) -> None:
        """Write the averaged weights in the layout in which others load them."""
        ...


class _Numbered(Dataset[Example]):
    """Shows a source to a data loader, which wants a dataset."""

    def __init__(self, source: ExampleSource) -> None:
        self.source = source

    def __getitem__(self, number: int) -> Example:
        return self.source[number]


def _numbers(first_batch: int, batch_size: int, process: int, processes: int) -> Iterator[list[int]]:
    """Yield, without end, the example numbers of this process's batches."""
    batch = first_batch
    while True:
        start = (batch * processes + process) * batch_size
        yield list(range(start, start + batch_size))
        batch += 1


def noise_generator(seed: int, batch: int, process: int) -> torch.Generator:
    """Return the generator for all that is random in one batch."""
    state = np.random.SeedSequence([seed, batch, process]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


@contextmanager
def fast_attention(device: torch.device) -> Iterator[None]:
    """Let attention take the way whose backward pass is fastest on the device.

    On CPUs that is the plain one, without a detour over float32: whole steps of a UNet on 16 x 16 latents take 0.8 of the
    time that they take with the fused one.
    """
    if device.type != "cpu":
        yield
        return
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()  # a switch for every device, whatever its name
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


def _forget_after(log: Path, step: int) -> None:
    """Drop the log's lines that a resumed run will write again."""
    if log.is_file():
        whole = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        kept = "".join(line for line in whole if json.loads(line)["step"] <= step)
        write_whole(kept, log)


def train(
    objective: Objective[Model], source: ExampleSource, options: TrainingOptions, folder: Path, *, spent: float = 0.0
) -> checkpoint.Progress:
    """Run, or go on with, the training in `folder` until it is complete.

    `folder` receives `checkpoint-*` folders, `log.jsonl` (one JSON object a line), `samples-*.png` and, at every
    checkpoint, `export/`: the averaged weights in the layout in which others load them.

    Args:
        objective: what is learned.
        source: of the examples.
        options: how long, how fast and how often.
        folder: of the run.
        spent: seconds that this session has taken before, which count as the run's.

    Returns:
        How far the run has come; its time includes validation, checkpoints and exports.

    Raises:
        FloatingPointError: the loss is no longer a number.
    """
    run = _Run(objective, options, folder)
    run.resume()
    run.progress.seconds += spent
    batches, window = run.batches(source), Window()
    run.start_clock()
    while run.progress.step < options.max_train_steps:
        with fast_attention(run.accelerator.device):
            window.add(run.step(batches))
        last = run.progress.step == options.max_train_steps
        if last or run.progress.step % options.logging_steps == 0:
            run.record(window.means())
        if last or run.progress.step % options.validation_steps == 0:
            run.validate()
        if last or run.progress.step % options.checkpointing_steps == 0:
            run.keep()
    run.count_time()
    return run.progress


class Window:
    """Figures of the steps since the last line of the log."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, figures: Mapping[str, float]) -> None:
        """Remember the figures of one step."""
        for name, value in figures.items():
            self._values.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        """Return the mean of each figure, and forget them."""
        means = {name: float(np.mean(values)) for name, values in self._values.items()}
        self._values = {}
        return means


class _Run(Generic[Model]):
    """What one call of `train` holds: the model, its average, its optimiser, and how far they have come."""

    def __init__(self, objective: Objective[Model], options: TrainingOptions, folder: Path) -> None:
        self.objective, self.options, self.folder = objective, options, folder
        self.accelerator = Accelerator(
            mixed_precision=options.mixed_precision,
            gradient_accumulation_steps=options.gradient_accumulation_steps,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],  # a batch may use a part only
        )
        self.progress = checkpoint.Progress()
        objective.prepare(self.accelerator.device)
        # Convolutions are faster, on processors by a third of a step, where the channels of a pixel lie together.
        layout: dict = {"memory_format": torch.channels_last}  # which torch's annotations of `to` leave out
        self.plain_model = objective.model.to(self.accelerator.device, **layout)
        groups = objective.parameter_groups()
        self._scales = [group.pop("scale", 1.0) for group in groups]
        betas = (0.9, options.adam_beta2)
        self._plain_optimizer = torch.optim.AdamW(
            groups, lr=options.learning_rate, betas=betas, weight_decay=options.adam_weight_decay, fused=True
        )
        self.average = AveragedModel(self.plain_model, multi_avg_fn=get_ema_multi_avg_fn(options.ema_decay))
        self.average.requires_grad_(False)
        self.average.eval()
        self.model, self.optimizer = self.accelerator.prepare(self.plain_model, self._plain_optimizer)

    def start_clock(self) -> None:
        """Let time count from now on."""
        self._counted = time.monotonic()

    def count_time(self) -> None:
        """Add the time since it was last counted."""
        now = time.monotonic()
        self.progress.seconds += now - self._counted
        self._counted = now

    def resume(self) -> None:
        """Go back to the newest checkpoint, if there is one."""
        found = checkpoint.latest(self.folder)
        if found is None:
            return
        self.progress = checkpoint.restore(found, self.plain_model, self.average.module, self._plain_optimizer)
        self.average.n_averaged.fill_(self.progress.step)
        if self.accelerator.is_main_process:
            _forget_after(self.folder / "log.jsonl", self.progress.step)
        self.accelerator.wait_for_everyone()
        logger.info("going on from %s: step %d of %d", found, self.progress.step, self.options.max_train_steps)

    def batches(self, source: ExampleSource) -> Iterator[Batch]:
        """Yield this process's batches on its device, without end, from where the run stands."""
        workers = self.options.dataloader_num_workers
        numbers = _numbers(
            self.progress.step * self.options.gradient_accumulation_steps,
            self.options.train_batch_size,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        loader = DataLoader(_Numbered(source), batch_sampler=numbers, collate_fn=collate, num_workers=workers)
        return (batch.to(self.accelerator.device) for batch in loader)

    def step(self, batches: Iterator[Batch]) -> dict[str, float]:
        """Take one optimiser step; return the figures of its batches."""
        options, accelerator, window = self.options, self.accelerator, Window()
        rate = options.learning_rate_at(self.progress.step)
        for group, scale in zip(self._plain_optimizer.param_groups, self._scales, strict=True):
            group["lr"] = rate * scale
        self.model.train()
        for micro_step in range(options.gradient_accumulation_steps):
            batch = self.progress.step * options.gradient_accumulation_steps + micro_step
            generator = noise_generator(options.seed, batch, accelerator.process_index)
            with accelerator.accumulate(self.model):
                with accelerator.autocast():
                    loss, figures = self.objective.loss(self.model, next(batches), generator)
                accelerator.backward(loss)
                window.add({"loss": float(loss.detach()), **figures})
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(self.model.parameters(), options.max_grad_norm)
                    window.add({"grad_norm": float(norm), "learning_rate": rate})
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.average.update_parameters(self.plain_model)
        self.progress.step += 1
        self.progress.examples += (
            options.train_batch_size * options.gradient_accumulation_steps * accelerator.num_processes
        )
        means = window.means()
        if not np.isfinite(means["loss"]):
            raise FloatingPointError(
                f"the loss is {means['loss']} at step {self.progress.step}; lower training.learning_rate and start again "
                f"from the checkpoint in {self.folder}"
            )
        return means

    def record(self, figures: Mapping[str, float]) -> None:
        """Write a line of the log."""
        self.count_time()
        hours = round(self.progress.seconds / 3600, 4)
        line = {"step": self.progress.step, "examples": self.progress.examples, "hours": hours, **figures}
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "log.jsonl").open("a") as stream:
                stream.write(json.dumps(line) + "\n")
            logger.info("  ".join(f"{name} {value:.5g}" for name, value in line.items()))

    def validate(self) -> None:
        """Measure the averaged weights, and draw pictures with them."""
        if not self.accelerator.is_main_process:
            return
        with torch.no_grad(), self.accelerator.autocast():
            figures, picture = self.objective.validate(self._averaged())
        self.record({f"validation/{name}": value for name, value in figures.items()})
        if picture is not None:
            picture.save(self.folder / f"samples-{self.progress.step:07d}.png")

    def _averaged(self) -> Model:
        return cast(Model, self.average.module)

    def keep(self) -> None:
        """Write a checkpoint, and the averaged weights for use."""
        if self.accelerator.is_main_process:
            limit = self.options.checkpoints_total_limit
            average = self._averaged()
            self.objective.export(average, self.folder / "export")
            self.count_time()
            checkpoint.save(self.folder, self.plain_model, average, self._plain_optimizer, self.progress, limit)
