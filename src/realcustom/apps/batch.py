"""`realcustom batch`: a list of subjects, words and prompts worked off; it can be killed and started again at any time."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from realcustom.apps.console import quiet_libraries
from realcustom.apps.outputs import require_folder, save, slug
from realcustom.apps.picture_options import picture_options, setting
from realcustom.errors import InputError
from realcustom.painting import Painter
from realcustom.pictures import labelled_grid, read_picture, require_free, write_picture
from realcustom.portrait import fit_reference
from realcustom.provenance import PictureSettings, picture_hash, read_provenance

SHEET, CELL = "contact-sheet.png", 256
"""The sheet of all pictures, and the largest side of one on it, in pixels."""

NEEDED = ("subject", "word", "prompt")

_PARSERS: dict[str, Callable[[str], Any]] = {
    ".csv": lambda text: list(csv.DictReader(io.StringIO(text, newline=""))),
    ".jsonl": lambda text: [json.loads(line) for line in text.split("\n") if line.strip()],
    ".yaml": yaml.safe_load,
    ".yml": yaml.safe_load,
}


@dataclass(frozen=True)
class Job:
    """One row of the list."""

    number: int
    """From 1."""
    subject: Path
    mask: Path | None
    settings: PictureSettings

    def path(self, folder: Path) -> Path:
        """Return where its picture goes."""
        return folder / f"{self.number:04d}-{slug(self.settings.prompt)}.png"

    def pictures(self) -> tuple[Image.Image, Image.Image | None]:
        """Return the subject's picture and the mask.

        Raises:
            InputError: one of them cannot be read.
        """
        return read_picture(self.subject), None if self.mask is None else read_picture(self.mask)


def batch(options: argparse.Namespace) -> None:
    """Make those pictures of the list that are not there yet, and a sheet of all.

    Raises:
        InputError: a row cannot be used (all such rows are named, and nothing has been made), or the output holds something
            else.
    """
    quiet_libraries()
    rows = read_rows(options.list)
    folder: Path = options.output
    require_folder(folder)
    painter = Painter.load(options.model, device=options.device, dtype=options.dtype)
    shared = {**picture_options(options), "seed": options.seed}
    jobs = _checked(rows, options.list.parent, painter, shared)
    missing = [job for job in jobs if not _is_done(job, folder, painter)]
    require_free(folder / SHEET, overwrite=True) if folder.is_dir() else folder.mkdir()
    for done, job in enumerate(missing, start=len(jobs) - len(missing) + 1):
        subject, mask = job.pictures()
        painting = painter.paint(subject, [job.settings], mask)
        save(painting.pictures[0], job.path(folder), painting.provenances[0])
        print(f"{done} of {len(jobs)}: {job.path(folder)}", file=sys.stderr)
    write_picture(_sheet(jobs, folder), folder / SHEET)
    if options.json:
        told = [{"image": str(job.path(folder)), "settings": job.settings.model_dump()} for job in jobs]
        about = {"sheet": str(folder / SHEET), "made": len(missing), "pictures": told}
        print(json.dumps(about, allow_nan=False))
    else:
        print(folder / SHEET)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV, JSONL or YAML file, without what is empty.

    Raises:
        InputError: the file cannot be read, is of another kind or holds no rows.
    """
    parse = _PARSERS.get(path.suffix.lower())
    if parse is None:
        raise InputError(f"the list must be a file of {', '.join(_PARSERS)}, but is {path}")
    try:
        rows = parse(path.read_text("utf-8-sig"))  # spreadsheets begin with a mark of the encoding
    except (OSError, ValueError, csv.Error, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"the list {path} cannot be read: {error}") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) for row in rows):
        raise InputError(f"the list {path} must hold one row or more, each with {', '.join(NEEDED)} by name")
    return [{str(name): value for name, value in row.items() if value not in (None, "")} for row in rows]


def _checked(rows: Sequence[Mapping[str, Any]], folder: Path, painter: Painter, shared: Mapping[str, Any]) -> list[Job]:
    """Return a job for every row, all of whose pictures and words are there."""
    jobs, wrong = [], []
    for number, row in enumerate(rows, start=1):
        try:
            jobs.append(_job(number, row, folder, painter, shared))
        except InputError as error:
            wrong.append(f"row {number}: {error}")
    if wrong:
        raise InputError("; ".join(wrong))
    return jobs


def _job(number: int, row: Mapping[str, Any], folder: Path, painter: Painter, shared: Mapping[str, Any]) -> Job:
    absent = [name for name in NEEDED if name not in row]
    if absent:
        raise InputError(f"it has no {' and no '.join(absent)}")
    if "mask-mode" in row and "mask" not in row:
        raise InputError("it has mask-mode, but no mask that this is about")
    given = {setting(name): value for name, value in row.items() if name not in (*NEEDED, "mask", "mask-mode")}
    values = {**shared, "seed": shared["seed"] + number - 1, "mask_mode": row.get("mask-mode"), **given}
    settings = painter.settings(str(row["prompt"]), str(row["word"]), **values)
    job = Job(number, folder / str(row["subject"]), folder / str(row["mask"]) if "mask" in row else None, settings)
    job.pictures()
    return job


def _is_done(job: Job, folder: Path, painter: Painter) -> bool:
    """Return whether a job's picture is there, made as the job says."""
    path = job.path(folder)
    if not path.exists():
        return False
    subject, mask = job.pictures()
    made = read_provenance(path)
    asked = (job.settings, painter.weights, picture_hash(subject), None if mask is None else picture_hash(mask))
    if (made.settings, made.weights, made.subject, made.mask) != asked:
        raise InputError(
            f"{path} was made with other settings, another model or another subject; name another --output"
        )
    return True


def _sheet(jobs: Sequence[Job], folder: Path) -> Image.Image:
    """Return every subject, as the encoder saw it, beside its new picture, with the prompts."""
    cells = []
    for job in jobs:
        picture = read_picture(job.path(folder))
        picture.thumbnail((CELL, CELL))
        cells += [fit_reference(job.pictures()[0], max(picture.size)), picture]
    return labelled_grid(cells, ["", ""], [job.settings.prompt for job in jobs])
