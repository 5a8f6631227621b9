"""Finding and loading models: a name, a folder or a hub id becomes components whose every tensor was on disk."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from torch import nn

from realcustom.errors import CheckpointMismatch, InputError, did_you_mean
from realcustom.finding import EMBEDDED, embedded_folder
from realcustom.integrity import VOCABULARIES

_NO_INGREDIENTS = {
    "_name_or_path", "_diffusers_version", "_commit_hash", "transformers_version", "dtype", "torch_dtype",
}  # fmt: skip
"""Entries of configurations that say where a part comes from and not what it is."""

_LIBRARIES = ("diffusers", "transformers", "realcustom")


def resolve(
    name: str | Path, *, revision: str | None = None, token: str | None = None, local_files_only: bool = False
) -> Path:
    """Return the folder of a model.

    Args:
        name: an embedded model, a folder in diffusers' layout, or a hub id, which is fetched as a snapshot.
        revision: branch, tag or commit on the hub.
        token: of the hub.
        local_files_only: never ask the hub; take what its cache holds.

    Raises:
        InputError: there is no such model.
    """
    if str(name) in EMBEDDED:
        folder = embedded_folder(str(name))
        if not (folder / "model_index.json").is_file():
            raise InputError(
                f"the embedded model {name!r} is missing from this installation ({folder}); install it again"
            )
        return folder
    if not str(name):
        raise InputError("the name of the model is empty; give an embedded model, a folder or a hub id")
    if os.path.isdir(name):  # of names that no file system takes it says no, where Path raises
        if not (Path(name) / "model_index.json").is_file():
            raise InputError(f"the folder {name} holds no model_index.json, so it is no model in diffusers' layout")
        return Path(name)
    try:
        patterns = ["*.json", "*.jsonl", "*.txt", "*.md", "*.safetensors", "*.model"]
        return Path(
            snapshot_download(
                str(name), revision=revision, token=token, local_files_only=local_files_only, allow_patterns=patterns
            )
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        hint, reason = did_you_mean(str(name), EMBEDDED), f"{type(error).__name__}: {error}"
        raise InputError(
            f"there is no embedded model, folder or reachable hub model called {str(name)!r}.{hint} ({reason})"
        ) from error


def construct(component: Any, arguments: Mapping[str, Any], what: str) -> Any:
    """Return what a class or function of this or another library makes of arguments that somebody wrote into a recipe.

    Args:
        component: to call.
        arguments: by name.
        what: the recipe's name for them.

    Raises:
        InputError: there is no such argument, or its value cannot be used.
    """
    try:
        return component(**arguments)
    except (TypeError, ValueError, KeyError, IndexError, NotImplementedError) as error:
        raise InputError(
            f"{what} cannot be used for a {component.__qualname__.removesuffix('.for_unet')}: {error}"
        ) from error


def fingerprint(*parts: nn.Module | None) -> str:
    """Return a hash of the weights of some networks, as they are loaded.

    Of every tensor some thousand numbers are looked at, evenly spread, so that large models take no longer than small ones:
    training changes it, the change of a single number may not.
    """
    digest = hashlib.sha256()
    for part in parts:
        for key, tensor in sorted(part.state_dict().items()) if part is not None else ():
            flat = tensor.detach().flatten()
            digest.update(f"{key} {tuple(tensor.shape)}".encode())
            digest.update(flat[:: max(1, len(flat) // 4096)].cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def model_hash(pipeline: DiffusionPipeline) -> str:
    """Return a hash of all of a model that decides its pictures: weights, configurations, schedule and vocabulary.

    Its defaults take no part: they are settings of a picture.
    """
    parts = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    configured = [part for part in pipeline.components.values() if hasattr(part, "config")]
    configs = [part.config if isinstance(part.config, Mapping) else part.config.to_dict() for part in configured]
    told = [{key: value for key, value in config.items() if key not in _NO_INGREDIENTS} for config in configs]
    vocabulary = sorted(pipeline.tokenizer.get_vocab().items())
    text = json.dumps([told, pipeline.config["mask_layers"], vocabulary], sort_keys=True, default=str)
    return hashlib.sha256(f"{fingerprint(*parts)} {text}".encode()).hexdigest()[:16]


def load_components(
    folder: Path, names: Sequence[str], given: Mapping[str, Any], dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Load those of the named components of a pipeline's folder that are models, strictly, except the ones that are `given`.

    Schedulers and tokenizers, which have no tensors, are left to diffusers.

    Raises:
        CheckpointMismatch: tensors are missing, unexpected or of another shape.
        InputError: a component is of a library that is not known.
    """
    try:
        index = dict(json.loads((folder / "model_index.json").read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{folder / 'model_index.json'} cannot be read: {error}") from error
    if "tokenizer" in index and "tokenizer" not in given:
        require_tokenizer(folder / "tokenizer")
    loaded = dict(given)
    for name in names:
        library, class_name = index.get(name) or (None, None)
        if name in given or library is None or class_name is None:
            continue
        if library.split(".")[0] not in _LIBRARIES:
            raise InputError(
                f"the component {name} of {folder} is a {library}.{class_name}; only {_LIBRARIES} are loaded"
            )
        component = getattr(importlib.import_module(library), class_name, None)
        if isinstance(component, type) and issubclass(component, nn.Module):
            loaded[name] = load_strictly(component, folder / name, dtype)
    return loaded


def require_tokenizer(folder: Path) -> None:
    """Check that a folder holds a tokenizer's vocabulary; transformers would make an empty one without a word.

    Raises:
        InputError: it does not.
    """
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise InputError(f"{folder} holds no vocabulary ({', '.join(VOCABULARIES[:-1])} or {VOCABULARIES[-1]})")


def load_diffusers_model(folder: Path) -> Any:
    """Return the diffusers model of a folder, of the class that its config names, loaded strictly.

    Raises:
        InputError: the folder holds no config of a diffusers model.
        CheckpointMismatch: tensors are missing, unexpected or of another shape.
    """
    try:
        name = json.loads((folder / "config.json").read_text("utf-8"))["_class_name"]
        component = getattr(importlib.import_module("diffusers"), name)
    except (OSError, KeyError, AttributeError, ValueError) as error:
        raise InputError(f"{folder} holds no model of diffusers: {error}") from error
    return load_strictly(component, folder)


def load_strictly(component: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Return a diffusers or transformers model from a folder, all of whose tensors were in its safetensors file.

    It holds numbers of type `dtype` whatever the file holds, and is in evaluation mode.

    Raises:
        CheckpointMismatch: tensors are missing, unexpected or of another shape.
        InputError: the folder or its safetensors file is not there or cannot be read.
    """
    try:
        model, info = component.from_pretrained(
            str(folder),
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"could not load {component.__name__} from {folder}: {error}") from error
    shapes = [f"{name} ({tuple(held)} instead of {tuple(own)})" for name, held, own in info["mismatched_keys"]]
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if missing or unexpected or shapes:
        raise CheckpointMismatch(str(folder), missing, unexpected, shapes)
    return model.eval()
