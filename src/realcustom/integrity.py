"""Whether the files of a model are whole: by what they say about themselves, and by the manifest that ships with them.

Nothing is loaded. A safetensors file says in its header how long it must be, `model_index.json` says which components
there must be, and a manifest says which bytes.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from realcustom.files import sha256_of, write_whole
from realcustom.finding import CARD, INDEX, Place, read_object

MANIFEST = "manifest.json"
"""File -> {size, sha256} of a model's files; it stands among them."""

VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")
"""One of these must lie beside a tokenizer's config."""

_UNLISTED = (MANIFEST, CARD, "training")
"""What a manifest leaves out: itself, the card and the logs, which may change without the model's being another."""

PICKLED = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
_WEIGHTS = ("diffusion_pytorch_model", "model")
"""What diffusers and transformers call a component's weights."""

_CONFIGS = {
    "Scheduler": "scheduler_config.json",
    "Tokenizer": "tokenizer_config.json",
    "Processor": "preprocessor_config.json",
    "FeatureExtractor": "preprocessor_config.json",
}
"""Part of a class name -> its config. All other components are models, with weights."""

_LONGEST_HEADER = 100_000_000
"""Bytes; safetensors itself refuses more."""


@dataclass(frozen=True)
class FileState:
    """What was found where a file of a model was looked for."""

    name: str
    """Below the model's folder."""
    path: Path
    size: int | None
    """In bytes; None if there is no such file."""
    state: Literal["whole", "missing", "broken", "not read"] = "whole"
    why: str = ""
    """The path and this make a sentence."""

    @property
    def is_problem(self) -> bool:
        """Whether the model cannot be used like this."""
        return self.state in ("missing", "broken")


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, and the command that repairs it."""

    what: str
    repair: str


def make_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of every file of a model, by its name below the folder."""
    listed = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in _UNLISTED and not _is_hidden(path, folder)
    }
    return {name: {"size": listed[name].stat().st_size, "sha256": sha256_of(listed[name])} for name in sorted(listed)}


def write_manifest(folder: Path) -> None:
    """Write the manifest of the files that lie in a model's folder now."""
    write_whole(json.dumps(make_manifest(folder), indent=2) + "\n", folder / MANIFEST)


def check(place: Place) -> list[FileState]:
    """Return the state of every file that a model in diffusers' layout needs, and of those in it that are never read.

    If the model has a manifest, which an embedded one must have, its files must also have the bytes that it tells of.
    """
    states = {state.name: state for state in check_layout(place.folder)}
    with_manifest = place.kind == "embedded" or (place.folder / MANIFEST).is_file()
    for state in check_manifest(place.folder) if with_manifest else []:
        if state.name not in states or states[state.name].state == "whole":
            states[state.name] = state
    return list(states.values())


def problems(place: Place, states: Sequence[FileState]) -> list[Problem]:
    """Return what is wrong with a model's files, and for each the command that repairs it."""
    return [Problem(f"{state.path} {state.why}", _repair(place, state)) for state in states if state.is_problem]


def check_manifest(folder: Path) -> list[FileState]:
    """Return the state of every file that the manifest of a model tells, and of the manifest itself."""
    manifest = _look(folder, MANIFEST, _manifest_fault)
    if manifest.state != "whole":
        return [manifest]
    told = read_object(folder / MANIFEST)
    return [manifest, *(_look(folder, name, partial(_other_bytes, told[name])) for name in told)]


def check_layout(folder: Path, variant: str | None = None) -> list[FileState]:
    """Return the state of the files that a model's index asks for, and of the weights beside them that are never read.

    Every component must have its folder and its config, a tokenizer a vocabulary, a model weights in safetensors; those of
    `variant` ("fp16") where it has them.
    """
    index = _look(folder, INDEX, _json_fault)
    if index.state != "whole":
        return [index]
    states = [index]
    for name, entry in read_object(folder / INDEX).items():
        if _is_component(entry):
            states += _component(folder, name, *entry, variant=variant)
    seen = {state.name for state in states}
    return states + [state for state in _never_read(folder) if state.name not in seen]


def safetensors_fault(path: Path) -> str:
    """Return what is wrong with a safetensors file, by its header and its length; '' if nothing is."""
    size, told = path.stat().st_size, _told_size(path)
    if told is None:
        return "does not begin with a header of safetensors"
    if size != told:
        reason = "is cut off" if size < told else "is too long"
        return f"{reason}: it has {size:,} bytes, its header tells of {told:,}"
    try:
        with safe_open(path, "np"):
            return ""
    except SafetensorError as error:
        return f"has a header that contradicts itself ({error})"


def _told_size(path: Path) -> int | None:
    """Return how long a safetensors file must be: 8 bytes of the header's length, the header, the tensors."""
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= _LONGEST_HEADER:
            return None
        header = file.read(length)
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
        return 8 + length + int(max(ends, default=0))
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError):
        return 8 + length if len(header) < length else None  # cut off within the header


def _is_component(entry: object) -> bool:
    """Whether an entry of an index is [library, class]; other lists are options, such as names of layers."""
    if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(part, str) for part in entry):
        return False
    return re.fullmatch(r"[A-Z]\w*", entry[1]) is not None


def _component(folder: Path, name: str, library: str, class_name: str, *, variant: str | None) -> list[FileState]:
    if not (folder / name).is_dir():
        return [FileState(f"{name}/", folder / name, None, "missing", f"is missing, the folder of the {class_name}")]
    config = next((file for part, file in _CONFIGS.items() if part in class_name), "config.json")
    states = [_look(folder, f"{name}/{config}", _json_fault)]
    if config == _CONFIGS["Tokenizer"]:
        there = [file for file in VOCABULARIES if (folder / name / file).is_file()] or [VOCABULARIES[0]]
        states += [_look(folder, f"{name}/{file}", _json_fault if file.endswith("json") else _empty) for file in there]
    if config == "config.json":
        if weights_variant(folder / name, variant):
            found = sorted((folder / name).glob(f"*.{variant}*.safetensors"))
            return states + [_look(folder, f"{name}/{path.name}", safetensors_fault) for path in found]
        own = library.split(".")[0] in ("diffusers", "realcustom", "stable_diffusion")
        there = [stem for stem in _WEIGHTS if any((folder / name).glob(f"{stem}.safetensors*"))]
        for stem in there or [_WEIGHTS[0 if own else 1]]:
            states += _weights(folder, f"{name}/{stem}.safetensors")
    return states


def weights_variant(folder: Path, variant: str | None) -> str | None:
    """Return the variant if a component's folder holds weights of it; None takes the plain ones."""
    return variant if variant and any(folder.glob(f"*.{variant}*.safetensors")) else None


def _weights(folder: Path, name: str) -> list[FileState]:
    """Return the state of a component's weights: of one file, or of an index and the shards that it names."""
    if not (folder / f"{name}.index.json").is_file():
        return [_look(folder, name, safetensors_fault)]
    index = _look(folder, f"{name}.index.json", _index_fault)
    if index.state != "whole":
        return [index]
    shards = sorted(set(read_object(index.path)["weight_map"].values()))
    return [index, *(_look(folder, f"{Path(name).parent.as_posix()}/{shard}", safetensors_fault) for shard in shards)]


def _never_read(folder: Path) -> list[FileState]:
    """Return the weights of a folder that no model is loaded from, unless a component asks for them by name."""
    reasons = {
        **dict.fromkeys(PICKLED, "is pickled, which is never read"),
        ".safetensors": "is not read: no component's weights are called so",
    }
    found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in reasons and path.is_file()]
    return [
        FileState(
            path.relative_to(folder).as_posix(), path, path.stat().st_size, "not read", reasons[path.suffix.lower()]
        )
        for path in found
        if not _is_hidden(path, folder)
    ]


def _look(folder: Path, name: str, fault: Callable[[Path], str]) -> FileState:
    """Return the state of one file, whose content is wrong if `fault` says anything of it."""
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return FileState(
            name, folder, None, "broken", f"is told of a file outside of it, {name!r}, which is not looked at"
        )
    if not path.is_file():
        return FileState(name, path, None, "missing", "is missing")
    try:
        why = fault(path)
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
    return FileState(name, path, path.stat().st_size, "broken" if why else "whole", why)


def _json_fault(path: Path) -> str:
    try:
        return "" if isinstance(json.loads(path.read_text("utf-8")), dict) else "holds no JSON object"
    except ValueError as error:
        return f"cannot be read as JSON: {error}"


def _index_fault(path: Path) -> str:
    shards = read_object(path).get("weight_map")
    names_files = isinstance(shards, dict) and shards and all(isinstance(shard, str) for shard in shards.values())
    return _json_fault(path) or ("" if names_files else "names no files in its weight_map")


def _manifest_fault(path: Path) -> str:
    told = read_object(path).values()
    is_one = told and all(isinstance(entry, dict) and {"size", "sha256"} <= entry.keys() for entry in told)
    return _json_fault(path) or ("" if is_one else "does not tell size and sha256 of every file")


def _other_bytes(told: Mapping[str, Any], path: Path) -> str:
    """Return in what a file is not the one that a manifest tells of."""
    if path.stat().st_size != told["size"]:
        return f"has {path.stat().st_size:,} bytes instead of {told['size']:,}"
    return "" if sha256_of(path) == told["sha256"] else f"has changed: its sha256 is not {told['sha256']}"


def _empty(path: Path) -> str:
    return "" if path.stat().st_size else "is empty"


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _repair(place: Place, state: FileState) -> str:
    """Return the command that brings a file of a model back."""
    if place.kind == "embedded":
        return "pip install --force-reinstall --no-deps realcustom"
    again = f" {shlex.quote(state.name)} --force-download" if state.state == "broken" else ""
    if place.kind == "hub":
        return f"hf download {place.name}{again}"
    return f"hf download ID{again} --local-dir {shlex.quote(str(place.folder))}  (ID: the hub model that it was)"
