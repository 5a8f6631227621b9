"""`realcustom sweep`: what one or two options do, as a grid whose every picture can be made again."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realcustom.apps.console import quiet_libraries
from realcustom.apps.outputs import keep, require_folder, save
from realcustom.apps.picture_options import (
    OPTIONS,
    given_options,
    picture_options,
    refuse_unread,
    setting,
    told_by_option,
)
from realcustom.errors import InputError
from realcustom.painting import Painter, Source, random_seed
from realcustom.pictures import labelled_grid, require_free, write_picture
from realcustom.provenance import PictureSettings
from realcustom.subject import read_likeness

GRID = "grid.png"
_CELL = re.compile(r"cell-\d+-\d+\.png")


@dataclass(frozen=True)
class Axis:
    """One option and the values that it takes."""

    option: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, words: list[str] | None) -> Axis | None:
        """Return the axis of `NAME VALUE VALUE ...`; None if there is none.

        Raises:
            InputError: there is no such option, or no value.
        """
        if words is None:
            return None
        if not words:
            raise InputError("an axis is written NAME VALUE VALUE ..., its name without dashes: --x mask-scope 0.1 0.5")
        option, *values = words
        setting(option)
        if not values:
            raise InputError(f"an axis is written NAME VALUE VALUE ..., but of {option!r} there is no value")
        return cls(option, tuple(values))


def sweep(options: argparse.Namespace) -> None:
    """Make a picture for every pair of values, and the grid of them all.

    Raises:
        InputError: an option or a value cannot be used, or the output is in the way; nothing has been written.
    """
    quiet_libraries()
    across, down = Axis.parse(options.x), Axis.parse(options.y)
    assert across is not None
    if down is not None and setting(across.option) == setting(down.option):
        raise InputError(f"both axes are of {across.option}; choose two options")
    axes = [across, down] if down else [across]
    settings = _shared(options, axes)
    subject = read_likeness(options.subject)
    cells = {
        (row, column): options.output / f"cell-{row + 1}-{column + 1}.png"
        for row in range(len(down.values) if down else 1)
        for column in range(len(across.values))
    }
    stale = _claim(options.output, [*cells.values()], options.subject, overwrite=options.overwrite)
    painter = Painter.load(options.model, options.adapter, device=options.device, dtype=options.dtype)
    with told_by_option():
        wanted = {place: _cell(painter, settings, across, down, *place) for place in cells}
    given = {**settings, **{setting(axis.option): axis.values for axis in axes}}
    refuse_unread(given_options(given), [painter.unread(one, [False]) for one in wanted.values()])
    options.output.mkdir(exist_ok=True)
    pictures = []
    for done, (place, path) in enumerate(cells.items(), start=1):
        painting = painter.paint([Source([subject])], [wanted[place]])
        save(painting.pictures[0], path, painting.provenances[0])
        pictures.append(painting.pictures[0])
        print(f"{done} of {len(cells)}", file=sys.stderr)
    labels = [f"{across.option} {value}" for value in across.values]
    rows = [f"{down.option} {value}" for value in down.values] if down else [""]
    write_picture(labelled_grid(pictures, labels, rows), options.output / GRID)
    for path in stale:
        path.unlink()
    if options.json:
        told = [{"image": str(path), "settings": wanted[place].model_dump()} for place, path in cells.items()]
        print(json.dumps({"grid": str(options.output / GRID), "cells": told}, allow_nan=False))
    else:
        print(options.output / GRID)


def _shared(options: argparse.Namespace, axes: list[Axis]) -> dict[str, Any]:
    """Return the settings that all cells begin with, none of which may be an axis, too."""
    given = {**picture_options(options), "seed": options.seed}
    for axis in axes:
        if given.get(setting(axis.option)) is not None:
            option = next(name for name in OPTIONS if OPTIONS[name] == setting(axis.option))
            raise InputError(f"--{option} was given, but the axis {axis.option} says it, too; leave one of them out")
    seed = random_seed() if options.seed is None else options.seed
    return {**given, "seed": seed, "prompt": options.prompt, "subject_word": options.word}


def _cell(
    painter: Painter, shared: Mapping[str, Any], across: Axis, down: Axis | None, row: int, column: int
) -> PictureSettings:
    values = {**shared, setting(across.option): across.values[column]}
    if down is not None:
        values[setting(down.option)] = down.values[row]
    return painter.settings(values.pop("prompt"), values.pop("subject_word"), **values)


def _claim(folder: Path, cells: list[Path], subject: Path, *, overwrite: bool) -> list[Path]:
    """Return the cells of an older, larger grid, once all files can be written into a folder that may have to be made."""
    require_folder(folder)
    if not folder.is_dir():
        return []
    stale = sorted(path for path in folder.iterdir() if _CELL.fullmatch(path.name) and path not in cells)
    for path in [folder / GRID, *cells, *stale]:
        require_free(path, overwrite=overwrite)
        keep([("the subject's picture", subject)], [path])
    return stale
