"""What every training run is told, whatever it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from realcustom.data.examples import ExampleSource
from realcustom.data.sources import DataOptions, open_source
from realcustom.options import Options

FIXED = "fixed"
Value = TypeVar("Value")
Fixed = Annotated[Value, FIXED]
"""What a run keeps when it goes on: it decides which examples it sees, or from which weights it began."""

Decay = Annotated[float, Field(ge=0, lt=1)]
"""How much of an average stays with every step."""


class TrainingOptions(Options):
    """How long, how fast and how often; names follow diffusers' training scripts."""

    max_train_steps: PositiveInt
    """Optimiser steps until the run is complete."""
    train_batch_size: Fixed[PositiveInt]
    """Examples in a batch, on each process."""
    learning_rate: PositiveFloat
    gradient_accumulation_steps: Fixed[PositiveInt] = 1
    lr_warmup_steps: NonNegativeInt = 200
    lr_decay_steps: NonNegativeInt = 0
    """Length of the linear decay to zero at the end of the run; 0 keeps the rate constant."""
    adam_beta2: Decay = 0.99
    adam_weight_decay: NonNegativeFloat = 0.01
    max_grad_norm: PositiveFloat = 1.0
    ema_decay: Decay = 0.999
    mixed_precision: Literal["no", "bf16"] = "bf16"
    seed: Fixed[NonNegativeInt] = 0
    dataloader_num_workers: NonNegativeInt = 1
    logging_steps: PositiveInt = 50
    validation_steps: PositiveInt = 1000
    checkpointing_steps: PositiveInt = 500
    checkpoints_total_limit: PositiveInt = 2

    @field_validator("mixed_precision", mode="before")
    @classmethod
    def _no_is_a_word(cls, value: object) -> object:
        """YAML reads the word `no` as false."""
        return "no" if value is False else value

    @model_validator(mode="after")
    def _phases_fit(self) -> TrainingOptions:
        if self.lr_warmup_steps + self.lr_decay_steps > self.max_train_steps:
            raise ValueError(
                f"lr_warmup_steps ({self.lr_warmup_steps}) and lr_decay_steps ({self.lr_decay_steps}) together exceed "
                f"max_train_steps ({self.max_train_steps})"
            )
        return self

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of optimiser step `step`, counted from 0: warm-up, constant, linear decay."""
        warm = (step + 1) / self.lr_warmup_steps if self.lr_warmup_steps else 1.0
        left = (self.max_train_steps - step) / self.lr_decay_steps if self.lr_decay_steps else 1.0
        return self.learning_rate * max(0.0, min(1.0, warm, left))


class Recipe(Options):
    """What the recipe of every run of `realcustom train` says; each kind of run adds its own."""

    output_dir: Path
    data: Fixed[DataOptions]
    training: TrainingOptions

    def examples(self) -> ExampleSource:
        """Return what the run learns from.

        Raises:
            InputError: the data cannot be used.
        """
        return open_source(self.data, "train", seed=self.training.seed)
