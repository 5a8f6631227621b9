"""Files that appear under their names only when they are whole, and what is read back from them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from realcustom.errors import InputError


@contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """Yield the name of a file to write beside `path`, which takes its place when the `with` block ends without an error.

    Raises:
        InputError: it cannot be written.
        OSError: the disk is full or broken.
    """
    draft = path.parent / f".{secrets.token_hex(8)}{path.suffix}"
    try:
        yield draft
        os.replace(draft, path)
    except BaseException as error:
        with suppress(OSError, ValueError):  # there is none, if it could not be made
            draft.unlink()
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO)
        if isinstance(error, (OSError, ValueError)) and not full:  # a full disk is no wrong input
            raise InputError(f"{named(path)} cannot be written: {reason(error)}") from error
        raise


def write_whole(content: str | bytes, path: Path, *, overwrite: bool = True) -> None:
    """Write a file; a text in UTF-8.

    Raises:
        InputError: it exists and may not be overwritten, or it cannot be written.
        OSError: the disk is full or broken.
    """
    require_place(path, overwrite=overwrite)
    with drafted(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def require_place(path: Path, *, overwrite: bool) -> None:
    """Check that a file of any kind can be written.

    Raises:
        InputError: it exists and may not be overwritten, or there is no folder for it.
    """
    if path.is_dir():
        raise InputError(f"{named(path)} is a folder; choose another name")
    require_folder_of(path)
    if os.path.lexists(path) and not overwrite:
        raise InputError(f"{named(path)} exists; choose another name, or overwrite it (--overwrite, overwrite=True)")


def require_folder_of(path: Path) -> None:
    """Check that there is a folder for a file.

    Raises:
        InputError: there is none.
    """
    folder = path.parent
    if not folder.is_dir() and folder.exists():
        raise InputError(
            f"the output {named(path)} cannot lie in {named(folder)}, which is a file; choose another name"
        )
    if not folder.is_dir():
        raise InputError(f"the folder {named(folder)} for the output does not exist; make it first")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{named(path)} cannot be read as JSON: {reason(error)}") from error
    if not isinstance(found, dict):
        raise InputError(f"{named(path)} holds no JSON object")
    return found


def sha256_of(path: Path) -> str:
    """Return the hash of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def named(path: Path) -> str:
    """Return a path as a message can show it: in one line, and without what a terminal would obey."""
    return str(path) if str(path).isprintable() else repr(str(path))


def reason(error: Exception) -> str:
    """Return in one line why something failed."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()) or type(error).__name__
