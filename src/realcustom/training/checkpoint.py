"""Checkpoints of a run: weights, their average and the optimiser in safetensors, everything else in JSON.

A checkpoint is a folder that appears under its name only when it is whole. Nothing random is stored, because nothing
random has a state: examples and noise are functions of the step (see `loop.py`).
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from realcustom.checks import check_state
from realcustom.errors import CheckpointMismatch, InputError

_NAME = re.compile(r"checkpoint-(\d+)$")


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    """Optimiser steps done."""
    examples: int = 0
    """Examples seen."""
    seconds: float = 0.0
    """Time spent, over all sessions."""


def load_strictly(module: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Put tensors into a module.

    Raises:
        CheckpointMismatch: names or shapes are not exactly the module's own.
    """
    check_state(source, module.state_dict(), tensors)
    module.load_state_dict(tensors)


def latest(folder: Path) -> Path | None:
    """Return the newest whole checkpoint in `folder`, or None."""
    found = [path for path in folder.glob("checkpoint-*") if _NAME.search(path.name)]
    return max(found, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)


def save(
    folder: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, limit: int
) -> Path:
    """Write a checkpoint into `folder` and keep only the newest `limit`; return its path."""
    final = folder / f"checkpoint-{progress.step:07d}"
    draft = folder / f".{final.name}.partial"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    save_file(_contiguous(model.state_dict()), draft / "model.safetensors")
    save_file(_contiguous(average.state_dict()), draft / "average.safetensors")
    save_file(_optimizer_tensors(model, optimizer), draft / "optimizer.safetensors")
    (draft / "progress.json").write_text(json.dumps(asdict(progress), indent=1))
    draft.replace(final)
    old = sorted(path for path in folder.glob("checkpoint-*") if _NAME.search(path.name))
    for path in old[:-limit]:
        shutil.rmtree(path)
    return final


def restore(path: Path, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Put a checkpoint back into model, average and optimiser; return how far it had come.

    Raises:
        CheckpointMismatch: the tensors are not the model's.
        InputError: the checkpoint is not whole.
    """
    names = ("model.safetensors", "average.safetensors", "optimizer.safetensors", "progress.json")
    gone = [name for name in names if not (path / name).is_file()]
    if gone:
        raise InputError(f"the checkpoint {path} lacks {', '.join(gone)}; delete it to go on from an older one")
    load_strictly(model, load_file(path / names[0]), str(path / names[0]))
    load_strictly(average, load_file(path / names[1]), str(path / names[1]))
    _restore_optimizer(model, optimizer, load_file(path / names[2]), str(path / names[2]))
    return Progress(**json.loads((path / names[3]).read_text()))


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as `parameter name/state name` tensors."""
    return {
        f"{name}/{key}": value.contiguous()
        for name, parameter in _trained(model)
        for key, value in optimizer.state[parameter].items()
    }


def _restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], source: str
) -> None:
    states: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        name, key = full_name.rsplit("/", 1)
        states.setdefault(name, {})[key] = tensor
    trained = dict(_trained(model))
    unexpected = sorted(states.keys() - trained.keys())
    if unexpected:
        raise CheckpointMismatch(source, [], unexpected, [])
    for name, state in states.items():  # a weight that has never had a gradient has no state yet
        parameter = trained[name]
        wrong = [f"{name}/{key}" for key, tensor in state.items() if tensor.ndim and tensor.shape != parameter.shape]
        if wrong:
            raise CheckpointMismatch(source, [], [], wrong)
        optimizer.state[parameter] = {
            # Adam keeps its step count on the CPU whatever the device; fused, it reads the rest in the parameter's own order.
            key: tensor if key == "step" else torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
            for key, tensor in state.items()
        }
