"""`realcustom convert`: published files that are pickled become a folder of safetensors: the method's, or a metric's."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from realcustom.apps.console import quiet_libraries
from realcustom.convert import convert_unet, dinov2_of, join, read_state, siglip_of
from realcustom.errors import InputError
from realcustom.evaluation.image_reward import image_reward_of
from realcustom.evaluation.lpips import lpips_of


def convert(options: argparse.Namespace) -> None:
    """Write the adapter, the image encoders and the base's UNet, or a metric's network, into a new folder.

    Raises:
        InputError: a file cannot be read, holds something else, or the folder is there already; nothing has been written.
    """
    quiet_libraries()
    output: Path = options.output
    if output.exists() or not output.parent.is_dir():
        raise InputError(f"--output must be the name of a new folder in one that exists, but is {output}")
    if options.kind != "realcustom":
        _convert_metric(options)
        return
    _refuse(options, "tokenizer")
    if options.config is None:
        raise InputError("--config is missing: the authors' configuration of the UNet, sdxl.json or the like")
    converted = convert_unet(options.files, _config(options.config))
    parts: dict[str, Any] = {"adapter": converted.adapter, "unet": converted.unet}
    for name, path, build in (
        ("image_encoder", options.siglip, siglip_of),
        ("image_encoder_2", options.dino, dinov2_of),
    ):
        parts[name] = None if path is None else build(read_state(path))
    with _whole(output) as folder:
        for name, part in parts.items():
            if part is not None:
                part.save_pretrained(folder / name)
    written = [name for name, part in parts.items() if part is not None]
    if options.json:
        print(
            json.dumps(
                {"output": str(output), "parts": written, "sources": converted.sources, "unused": converted.dropped}
            )
        )
        return
    for file, held in converted.sources.items():
        print(f"{file}: {', '.join(held)}", file=sys.stderr)
    if converted.dropped:
        print(f"left out, as the authors' code never uses them: {', '.join(converted.dropped)}", file=sys.stderr)
    print(f"{output} ({', '.join(written)})")


def _convert_metric(options: argparse.Namespace) -> None:
    """Write a network that photographs are measured with into a new folder."""
    _refuse(options, "config", "siglip", "dino")
    if options.kind == "lpips":
        _refuse(options, "tokenizer")
        parts: list[Any] = [lpips_of(_read(options))]
    else:
        parts = [_tokenizer(options.tokenizer), image_reward_of(_read(options))]
    with _whole(options.output) as folder:
        for part in parts:
            part.save_pretrained(folder)
    if options.json:
        print(json.dumps({"output": str(options.output), "parts": [options.kind], "sources": {}, "unused": []}))
        return
    print(f"{options.output} ({options.kind})")


def _read(options: argparse.Namespace) -> dict[str, Any]:
    return join({file: read_state(file) for file in options.files})


def _tokenizer(name: str | None) -> Any:
    """Return the tokenizer by which ImageReward reads.

    Raises:
        InputError: none is named, it cannot be loaded, or it is another one.
    """
    if name is None:
        raise InputError("--tokenizer is missing: a folder or hub id of bert-base-uncased, by which ImageReward reads")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(f"could not load a tokenizer from {name}: {error}") from error
    read = tokenizer("The", add_special_tokens=True).input_ids
    if len(tokenizer) != 30522 or read != [101, tokenizer.convert_tokens_to_ids("the"), 102]:
        raise InputError(f"{name} is not the tokenizer of bert-base-uncased, by which ImageReward reads")
    return tokenizer


def _refuse(options: argparse.Namespace, *names: str) -> None:
    if given := [f"--{name}" for name in names if getattr(options, name) is not None]:
        raise InputError(f"{', '.join(given)} would have no effect with --as {options.kind}; leave it out")


@contextmanager
def _whole(output: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes `output` when it is full: there is the whole folder or none."""
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        whole = Path(scratch) / output.name
        yield whole
        shutil.copymode(output.parent, whole)
        os.replace(whole, output)


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"--config must be the authors' configuration of the UNet; {path} cannot be read: {error}"
        ) from error
    if not isinstance(config, dict) or "in_channels" not in config:
        raise InputError(f"--config must be the authors' configuration of the UNet, but {path} holds something else")
    return config
