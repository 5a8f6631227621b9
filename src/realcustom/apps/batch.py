"""`realcustom batch`: a list of subjects, words and prompts worked off; it can be killed and started again at any time."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from realcustom.apps.console import quiet_libraries
from realcustom.apps.lists import NEEDED, read_rows
from realcustom.apps.outputs import keep, require_folder, save, slug
from realcustom.apps.picture_options import (
    FLAGS,
    MASK_OPTIONS,
    OPTIONS,
    given_options,
    picture_options,
    refuse_unread,
    setting,
    told_by_option,
)
from realcustom.errors import InputError
from realcustom.painting import Painter, Source
from realcustom.pictures import as_seen, labelled_grid, read_picture, require_free, write_picture
from realcustom.provenance import PictureSettings, likeness_hash, picture_hash, read_provenance
from realcustom.saved_subject import SavedSubject
from realcustom.subject import Likeness, read_likeness, shown

SHEET, CELL = "contact-sheet.png", 256
"""The sheet of all pictures, and the largest side of one on it, in pixels."""

SHEET_KEY = "realcustom-sheet"
"""The text in a PNG by which a sheet is known as one of this command's."""

_NUMBERED = re.compile(r"\d{4,}-.*\.png")
_TEXTS = (*NEEDED, "mask")


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

    def pictures(self) -> tuple[Likeness, Image.Image | None]:
        """Return the subject's picture, or what was saved of it, and the mask.

        Raises:
            InputError: one of them cannot be read.
        """
        return read_likeness(self.subject), None if self.mask is None else read_picture(self.mask)


def batch(options: argparse.Namespace) -> None:
    """Make those pictures of the list that are not there yet, and a sheet of all.

    Raises:
        InputError: a row cannot be used (all such rows are named), or the output holds something else; nothing has been made.
    """
    quiet_libraries()
    rows = read_rows(options.list)
    folder: Path = options.output
    require_folder(folder)
    painter = Painter.load(options.model, options.adapter, device=options.device, dtype=options.dtype)
    shared = {**picture_options(options), "seed": options.seed}
    jobs = _checked(rows, options.list.parent, painter, shared)
    if folder.is_dir():
        _refuse_others(jobs, folder)
    missing = [job for job in jobs if not _is_done(job, folder, painter)]
    folder.mkdir(exist_ok=True)
    for done, job in enumerate(missing, start=len(jobs) - len(missing) + 1):
        subject, mask = job.pictures()
        painting = painter.paint([Source([subject], mask)], [job.settings])
        save(painting.pictures[0], job.path(folder), painting.provenances[0])
        print(f"{done} of {len(jobs)}: {job.path(folder)}", file=sys.stderr)
    texts = PngInfo()
    texts.add_itxt(SHEET_KEY, "the pictures of a list, each beside its subject")
    write_picture(_sheet(jobs, folder), folder / SHEET, texts)
    if options.json:
        told = [{"image": str(job.path(folder)), "settings": job.settings.model_dump()} for job in jobs]
        about = {"sheet": str(folder / SHEET), "made": len(missing), "pictures": told}
        print(json.dumps(about, allow_nan=False))
    else:
        print(folder / SHEET)


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
    calls = [
        _unread(job, painter)
        | dict.fromkeys(_said(row).values(), "each row of the list says it itself or does not read it")
        for job, row in zip(jobs, rows, strict=True)
    ]
    given = given_options(shared)
    del given["seed"]  # there is always one
    refuse_unread(given, calls)
    return jobs


def _unread(job: Job, painter: Painter) -> dict[str, str]:
    return painter.unread(job.settings, [job.mask is not None])


def _job(number: int, row: Mapping[str, Any], folder: Path, painter: Painter, shared: Mapping[str, Any]) -> Job:
    _check_kinds(row)
    said = _said(row)
    given = {name: row[option] for option, name in said.items()}
    values = {**shared, "seed": shared["seed"] + number - 1, "mask_mode": row.get("mask-mode"), **given}
    with told_by_option(dashes=""):
        settings = painter.settings(row["prompt"], row["word"], **values)
    job = Job(number, folder / row["subject"], folder / row["mask"] if "mask" in row else None, settings)
    refuse_unread(said, [_unread(job, painter)], dashes="")
    for picture in job.pictures():
        if isinstance(picture, Image.Image):
            as_seen(picture)
        elif isinstance(picture, SavedSubject):
            painter.pipeline.subject_encoder.require(picture, painter.pipeline.adapter)
    return job


def _said(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the options that a row says, each with its setting's name."""
    return {name: setting(name, [*MASK_OPTIONS]) for name in row if name not in (*NEEDED, *MASK_OPTIONS)}


def _check_kinds(row: Mapping[str, Any]) -> None:
    """Check that a row has what it must have, and that names and numbers are what they must be."""
    absent = [name for name in NEEDED if name not in row]
    if absent:
        raise InputError(f"it has no {' and no '.join(absent)}")
    if "mask-mode" in row and "mask" not in row:
        raise InputError("it has mask-mode, but no mask that this is about")
    for name, value in row.items():
        if name in _TEXTS and not isinstance(value, str):
            raise InputError(f"{name} must be a text, but is {value!r}")
        if isinstance(value, bool) and name in OPTIONS and name not in FLAGS:
            raise InputError(f"{name} cannot be true or false, but is {value!r}")
        for text in (name, value):
            if isinstance(text, str) and any("\ud800" <= letter <= "\udfff" for letter in text):
                raise InputError(f"{name} holds half a character, {text!r}; write it as a whole one")


def _refuse_others(jobs: Sequence[Job], folder: Path) -> None:
    """Check that a folder holds no picture of another list, and no sheet that is somebody else's or a subject."""
    wanted = {job.path(folder) for job in jobs}
    numbered = sorted(path for path in folder.iterdir() if _NUMBERED.fullmatch(path.name))
    if others := [path for path in numbered if path not in wanted]:
        raise InputError(
            f"{others[0]} is of no row of the list; rows can only be added at its end, so name another --output for this list"
        )
    sheet = folder / SHEET
    require_free(sheet, overwrite=True)
    for job in jobs:
        keep([(f"the subject of row {job.number}", job.subject), (f"the mask of row {job.number}", job.mask)], [sheet])
    if sheet.exists() and not _is_sheet(sheet):
        raise InputError(f"{sheet} is no sheet of this command; move it away, or name another --output")


def _is_sheet(path: Path) -> bool:
    try:
        return SHEET_KEY in getattr(read_picture(path), "text", {})
    except InputError:  # no picture at all
        return False


def _is_done(job: Job, folder: Path, painter: Painter) -> bool:
    """Return whether a job's picture is there, made as the job says."""
    path = job.path(folder)
    if not path.exists():
        return False
    subject, mask = job.pictures()
    try:
        made = read_provenance(path)
    except InputError as error:
        raise InputError(f"{error}; delete it, so that it is made again, or name another --output") from error
    if made.dtype != painter.dtype:
        raise InputError(f"{path} was made in {made.dtype}, not in {painter.dtype}; name another --output")
    said = {name: option for option, name in {**OPTIONS, **MASK_OPTIONS}.items()}
    others = [
        f"{said.get(name, name)} ({was} instead of {wanted})"
        for name in PictureSettings.model_fields
        if (was := getattr(made.settings, name)) != (wanted := getattr(job.settings, name))
    ]
    ingredients = {
        "model": (made.weights, painter.weights),
        "subject": (made.subject, likeness_hash(subject)),
        "mask": (made.mask, None if mask is None else picture_hash(mask)),
    }
    others += [name for name, (was, wanted) in ingredients.items() if was != wanted]
    if others:
        raise InputError(f"{path} was made with another {', '.join(others)}; name another --output")
    return True


def _sheet(jobs: Sequence[Job], folder: Path) -> Image.Image:
    """Return every subject, as the encoder saw it, beside its new picture, with the prompts."""
    cells = []
    for job in jobs:
        picture = read_picture(job.path(folder))
        picture.thumbnail((CELL, CELL))
        cells += [shown(job.pictures()[0], max(picture.size)), picture]
    return labelled_grid(cells, ["", ""], [job.settings.prompt for job in jobs])
