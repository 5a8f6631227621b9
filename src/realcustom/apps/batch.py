"""`realcustom batch`: a list of subjects, words and prompts worked off; it can be killed and started again at any time."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from realcustom.apps.console import quiet_libraries
from realcustom.apps.generate import picture_options, save, slug
from realcustom.apps.sweep import setting
from realcustom.errors import InputError
from realcustom.painting import Painter
from realcustom.pictures import labelled_grid, read_picture, require_free, write_picture
from realcustom.prompts import find_word
from realcustom.provenance import PictureSettings, picture_hash, read_provenance

SHEET = "contact-sheet.png"
NEEDED = ("subject", "word", "prompt")


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
    if not folder.is_dir() and (folder.exists() or not folder.parent.is_dir()):
        raise InputError(f"--output must be a folder, or a name for one in a folder that exists, but is {folder}")
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
    try:
        text = path.read_text("utf-8")
        if path.suffix == ".csv":
            rows: Any = list(csv.DictReader(text.splitlines()))
        elif path.suffix == ".jsonl":
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        elif path.suffix in (".yaml", ".yml"):
            rows = yaml.safe_load(text)
        else:
            raise InputError(f"the list must be a .csv, .jsonl or .yaml file, but is {path}")
    except (OSError, ValueError, csv.Error, yaml.YAMLError) as error:
        if isinstance(error, InputError):
            raise
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
    given = {setting(name): value for name, value in row.items() if name not in (*NEEDED, "mask")}
    values = {**shared, "seed": shared["seed"] + number - 1, **given}
    settings = painter.settings(str(row["prompt"]), str(row["word"]), **values)
    find_word(settings.prompt, settings.subject_word, painter.pipeline.tokenizer, occurrence=settings.occurrence)
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
    """Return every subject beside its new picture, with the prompts."""
    cells = []
    for job in jobs:
        picture = read_picture(job.path(folder))
        subject = job.pictures()[0].convert("RGB")
        subject.thumbnail(picture.size)
        shown = Image.new("RGB", picture.size, "white")
        shown.paste(subject, ((picture.width - subject.width) // 2, (picture.height - subject.height) // 2))
        cells += [shown, picture]
    return labelled_grid(cells, ["", ""], [job.settings.prompt for job in jobs])
