"""Finding and loading models: a name, a folder or a hub id becomes components whose every tensor was on disk."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from torch import nn

from realcustom.adapter import RealCustomAdapter, defaults_of
from realcustom.checks import check_tensors
from realcustom.errors import InputError, did_you_mean
from realcustom.finding import EMBEDDED, embedded_folder, read_object
from realcustom.integrity import PICKLED, VOCABULARIES, check_layout, weights_variant

_NO_INGREDIENTS = {
    "_name_or_path", "_diffusers_version", "_commit_hash", "transformers_version", "dtype", "torch_dtype", "architectures",
}  # fmt: skip
"""Entries of configurations that say where a part comes from and not what it is."""

_LIBRARIES = ("diffusers", "transformers", "realcustom", "stable_diffusion")


def resolve(name: str | Path, **hub: Any) -> Path:
    """Return the folder of a model.

    Args:
        name: an embedded model, a folder in diffusers' layout, or a hub id, which is fetched as a snapshot.
        **hub: `revision` (branch, tag or commit), `token`, `local_files_only` (take what the cache holds), `cache_dir` and
            `variant` of the weights.

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
    return _snapshot(str(name), **hub)


def wanted_files(files: Sequence[str], variant: str | None = None, parts: Sequence[str] | None = None) -> list[str]:
    """Return those of a hub repository's files that are read.

    Args:
        files: all of them.
        variant: of the weights; the plain ones where a part has none of it.
        parts: folders of a model's components. None if the repository holds no model but a part alone, whose weights may
            also lie beside the folders; beside those of a model the same weights lie again, in one file for others.
    """
    told = [name for name in files if name.endswith((".json", ".jsonl", ".txt", ".md", ".model"))]
    weights: dict[str, list[str]] = {}
    for name in files:
        folder = name.rpartition("/")[0]
        if name.endswith(".safetensors") and (parts is None or folder in parts):
            weights.setdefault(folder, []).append(name)
    chosen = []
    for own in weights.values():
        plain = [name for name in own if re.fullmatch(r"[^.]+\.safetensors", name.rpartition("/")[2])]
        of_variant = [name for name in own if variant and f".{variant}" in name.rpartition("/")[2]]
        chosen += of_variant or plain
    return sorted(told + chosen)


def _snapshot(
    name: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    local_files_only: bool = False,
    cache_dir: str | Path | None = None,
    variant: str | None = None,
) -> Path:
    """Return the folder of what lies on the hub, fetched if that is allowed, or else as it was fetched before.

    Raises:
        InputError: it can neither be reached nor found in the cache, or holds nothing but pickles.
    """
    where: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir}
    reason: Exception | None = None
    if not local_files_only:
        try:
            return _fetched(name, token, variant, where)
        except InputError:
            raise
        except Exception as error:  # the hub's library hands on whatever its connection raises
            reason = error
    try:
        return Path(snapshot_download(name, local_files_only=True, **where))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = reason or error
    raise InputError(
        f"there is no embedded model, folder or reachable hub model called {name!r}.{did_you_mean(name, EMBEDDED)} "
        f"({type(reason).__name__}: {reason})"
    ) from reason


def _fetched(name: str, token: str | None, variant: str | None, where: Mapping[str, Any]) -> Path:
    files = HfApi(token=token).list_repo_files(name, revision=where["revision"])
    parts = None
    if "model_index.json" in files:
        index = read_object(Path(hf_hub_download(name, "model_index.json", token=token, **where)))
        parts = [part for part, entry in index.items() if isinstance(entry, list) and None not in entry]
    if not any(one.endswith(".safetensors") for one in files):
        pickled = sorted(one for one in files if one.endswith(PICKLED))
        raise InputError(f"{name} holds nothing in safetensors{_to_be_converted(pickled)}")
    return Path(snapshot_download(name, token=token, allow_patterns=wanted_files(files, variant, parts), **where))


def _to_be_converted(pickled: Sequence[str]) -> str:
    if not pickled:
        return ""
    return f"; it holds {', '.join(pickled)}, which are pickled: convert them once with: realcustom convert FILE ... -o FOLDER"


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

    Its defaults take no part that are settings of a picture, nor what it does as every model does it unless told otherwise.
    """
    components = [part for _, part in sorted(pipeline.components.items())]
    parts = [part for part in components if isinstance(part, nn.Module)]
    told = [_ingredients(part) for part in components if hasattr(part, "config")]
    vocabulary = sorted(pipeline.tokenizer.get_vocab().items())
    usual = {
        "mask_normalization": defaults_of(pipeline.adapter)["mask_normalization"],
        "force_zeros_for_empty_prompt": True,
    }
    unusual = {name: value for name, one in usual.items() if (value := pipeline.config[name]) not in (None, one)}
    own = [told, pipeline.config["mask_layers"], vocabulary, *([unusual] if unusual else [])]
    text = json.dumps(own, sort_keys=True, default=str)
    return hashlib.sha256(f"{fingerprint(*parts)} {text}".encode()).hexdigest()[:16]


def _ingredients(part: Any) -> dict[str, Any]:
    """Return what a part's configuration says beyond its class's defaults, so that a new option changes no older hash."""
    if not isinstance(part.config, Mapping):
        said = part.config.to_diff_dict()
    else:
        defaults = {name: one.default for name, one in inspect.signature(type(part).__init__).parameters.items()}
        said = {
            key: value for key, value in part.config.items() if key in defaults and _told(value) != _told(defaults[key])
        }
    return {key: value for key, value in said.items() if key not in _NO_INGREDIENTS}


def _told(value: Any) -> str:
    """Return a value as a file of JSON tells it, where a tuple is a list."""
    return json.dumps(value, sort_keys=True, default=str)


def load_components(
    folder: Path,
    names: Sequence[str],
    given: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
) -> dict[str, Any]:
    """Load those of the named components of a pipeline's folder that are models, strictly, except the ones that are `given`.

    Schedulers and tokenizers, which have no tensors, are left to diffusers.

    Raises:
        CheckpointMismatch: tensors are missing, unexpected or of another shape.
        InputError: files are missing, each of which is named, or a component is of a library that is not known.
    """
    try:
        index = dict(json.loads((folder / "model_index.json").read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{folder / 'model_index.json'} cannot be read: {error}") from error
    wanted = [name for name in names if name not in given and (index.get(name) or [None])[0] is not None]
    for name in wanted:
        library, class_name = index[name]
        if library.split(".")[0] not in _LIBRARIES:
            raise InputError(
                f"the component {name} of {folder} is a {library}.{class_name}; only {_LIBRARIES} are loaded"
            )
    missing = [
        f"{state.name} (looked for at {state.path})"
        for state in check_layout(folder, variant)
        if state.state == "missing" and state.name.split("/")[0] in wanted
    ]
    if missing:
        raise InputError(f"the model {folder} is not whole; {len(missing)} missing: {', '.join(missing)}")
    loaded = dict(given)
    for name in wanted:
        library, class_name = index[name]
        module = f"diffusers.pipelines.{library}" if library == "stable_diffusion" else library
        component = getattr(importlib.import_module(module), class_name, None)
        if isinstance(component, type) and issubclass(component, nn.Module):
            loaded[name] = load_strictly(component, folder / name, dtype, weights_variant(folder / name, variant))
    return loaded


def part_folder(name: str | Path, **hub: Any) -> Path:
    """Return the folder of a RealCustom part, or of anything else that is no whole model.

    Args:
        name: a folder, or a hub id, which is fetched as a snapshot.
        **hub: `revision`, `token`, `local_files_only` (take what the cache holds) and `cache_dir`.

    Raises:
        InputError: there is none.
    """
    return Path(name) if os.path.isdir(name) else _snapshot(str(name), **hub)


def load_part(name: str | Path, dtype: torch.dtype = torch.float32, *, base: bool = True, **hub: Any) -> dict[str, Any]:
    """Return the components that a RealCustom part's folder holds: the adapter, and what it brings along.

    Args:
        name: a folder as `realcustom convert` writes it or an adapter was saved in, or a hub id, which is fetched.
        dtype: of the numbers.
        base: also load the base's UNet, if the part brings one.
        **hub: `revision`, `token`, `local_files_only` and `cache_dir`.

    Raises:
        CheckpointMismatch: tensors are missing, unexpected or of another shape.
        InputError: there is no such folder, or it holds no adapter in safetensors.
    """
    folder = part_folder(name, **hub)
    own = folder / "adapter" if (folder / "adapter").is_dir() else folder
    if not any(own.glob("*.safetensors*")):
        pickled = sorted(path.name for path in folder.rglob("*") if path.suffix in PICKLED)
        raise InputError(f"{folder} holds no RealCustom adapter in safetensors{_to_be_converted(pickled)}")
    parts: dict[str, Any] = {"adapter": load_strictly(RealCustomAdapter, own, dtype)}
    for part in ("image_encoder", "image_encoder_2", *(["unet"] if base else [])):
        if (folder / part / "config.json").is_file():
            parts[part] = load_model(folder / part, dtype)
    return parts


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Return the model of diffusers or transformers that a folder holds, loaded strictly.

    Raises:
        InputError: the folder's config names no such model.
        CheckpointMismatch: tensors are missing, unexpected or of another shape.
    """
    return load_strictly(_class_of(folder), folder, dtype)


def _class_of(folder: Path) -> Any:
    """Return the class of a model of diffusers or transformers that a folder's config names.

    Raises:
        InputError: it names none.
    """
    config = read_object(folder / "config.json")
    library, name = (
        ("diffusers", config["_class_name"])
        if "_class_name" in config
        else ("transformers", (config.get("architectures") or [""])[0])
    )
    component = getattr(importlib.import_module(library), str(name), None)
    if component is None:
        raise InputError(f"{folder / 'config.json'} names no model of {library}: {name!r}")
    return component


def require_tokenizer(folder: Path) -> None:
    """Check that a folder holds a tokenizer's vocabulary; transformers would make an empty one without a word.

    Raises:
        InputError: it does not.
    """
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise InputError(f"{folder} holds no vocabulary ({', '.join(VOCABULARIES[:-1])} or {VOCABULARIES[-1]})")


def load_strictly(
    component: Any, folder: Path, dtype: torch.dtype = torch.float32, variant: str | None = None, **made: Any
) -> Any:
    """Return a diffusers or transformers model from a folder, all of whose tensors were in its safetensors file.

    It holds numbers of type `dtype` whatever the file holds, and is in evaluation mode. Whatever is given beside is how the
    class makes it.

    Raises:
        CheckpointMismatch: tensors are missing, unexpected or of another shape.
        InputError: the folder or its safetensors file is not there or cannot be read.
    """
    try:
        model, info = component.from_pretrained(
            str(folder),
            dtype=dtype,
            variant=variant,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **made,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"could not load {component.__name__} from {folder}: {error}") from error
    check_tensors(str(folder), info["missing_keys"], info["unexpected_keys"], info["mismatched_keys"])
    return model.eval()
