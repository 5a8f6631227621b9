"""Names of the files that commands write, and the one way of writing pictures that say how they were made."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from realcustom.errors import InputError
from realcustom.pictures import write_picture
from realcustom.provenance import Provenance


def slug(prompt: str) -> str:
    """Return a prompt as a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60] or "picture"


def beside(path: Path, kind: str) -> Path:
    """Return the name of a file that belongs to a picture's; the picture's own for no kind."""
    return path.with_stem(f"{path.stem}-{kind}") if kind else path


def save(picture: Image.Image, path: Path, provenance: Provenance | None) -> None:
    """Write a picture with how it was made, if that shall be said."""
    write_picture(picture, path, None if provenance is None else provenance.png_texts())


def keep(sources: Iterable[tuple[str, Path | None]], outputs: Iterable[Path]) -> None:
    """Check that nothing is written over what a picture is made of, under whatever name.

    Args:
        sources: files that are there, by what they are; None for one that was not given.
        outputs: files that may be there.

    Raises:
        InputError: an output is one of the sources.
    """
    known = list(sources)
    for output in outputs:
        for what, source in known:
            if source is not None and output.exists() and output.samefile(source):
                raise InputError(f"{output} is {what} itself, which is never overwritten; choose another name")


def require_folder(folder: Path) -> None:
    """Check that a folder is there or can be made.

    Raises:
        InputError: it is something else, or the folder that would hold it is not there.
    """
    if not folder.is_dir() and (folder.exists() or not folder.parent.is_dir()):
        raise InputError(f"--output must be a folder, or a name for one in a folder that exists, but is {folder}")
