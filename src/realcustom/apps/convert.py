"""`realcustom convert`: the files that the method's authors published become a folder of safetensors."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from realcustom.apps.console import quiet_libraries
from realcustom.convert import convert_unet, dinov2_of, read_state, siglip_of
from realcustom.errors import InputError


def convert(options: argparse.Namespace) -> None:
    """Write the adapter, the image encoders and the base's UNet, of those that the files hold, into a new folder.

    Raises:
        InputError: a file cannot be read, holds something else, or the folder is there already; nothing has been written.
    """
    quiet_libraries()
    output: Path = options.output
    if output.exists() or not output.parent.is_dir():
        raise InputError(f"--output must be the name of a new folder in one that exists, but is {output}")
    converted = convert_unet(options.files, _config(options.config))
    parts: dict[str, Any] = {"adapter": converted.adapter, "unet": converted.unet}
    for name, path, build in (
        ("image_encoder", options.siglip, siglip_of),
        ("image_encoder_2", options.dino, dinov2_of),
    ):
        parts[name] = None if path is None else build(read_state(path))
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        whole = Path(scratch) / output.name
        for name, part in parts.items():
            if part is not None:
                part.save_pretrained(whole / name)
        shutil.copymode(output.parent, whole)
        os.replace(whole, output)  # there is the whole folder or none
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
