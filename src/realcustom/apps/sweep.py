"""`realcustom sweep`: what one or two options do, as a grid whose every picture can be made again."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from realcustom.apps.console import quiet_libraries
from realcustom.apps.outputs import require_folder, save
from realcustom.apps.picture_options import picture_options, setting
from realcustom.errors import InputError
from realcustom.painting import Painter
from realcustom.pictures import labelled_grid, read_picture, require_free, write_picture
from realcustom.provenance import PictureSettings

GRID = "grid.png"


@dataclass(frozen=True)
class Axis:
    """One option and the values that it takes."""

    option: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, words: list[str] | None) -> Axis | None:
        """Return the axis of `NAME VALUE VALUE ...`; None of nothing.

        Raises:
            InputError: there is no such option, or no value.
        """
        if words is None:
            return None
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
    subject = read_picture(options.subject)
    cells = {
        (row, column): options.output / f"cell-{row + 1}-{column + 1}.png"
        for row in range(len(down.values) if down else 1)
        for column in range(len(across.values))
    }
    _claim(options.output, [options.output / GRID, *cells.values()], overwrite=options.overwrite)
    painter = Painter.load(options.model, device=options.device, dtype=options.dtype)
    base = painter.settings(options.prompt, options.word, seed=options.seed, **picture_options(options))
    wanted = {place: _cell(painter, base, across, down, *place) for place in cells}
    options.output.mkdir(exist_ok=True)
    pictures = []
    for done, (place, path) in enumerate(cells.items(), start=1):
        painting = painter.paint(subject, [wanted[place]])
        save(painting.pictures[0], path, painting.provenances[0])
        pictures.append(painting.pictures[0])
        print(f"{done} of {len(cells)}", file=sys.stderr)
    labels = [f"{across.option} {value}" for value in across.values]
    rows = [f"{down.option} {value}" for value in down.values] if down else [""]
    write_picture(labelled_grid(pictures, labels, rows), options.output / GRID)
    if options.json:
        told = [{"image": str(path), "settings": wanted[place].model_dump()} for place, path in cells.items()]
        print(json.dumps({"grid": str(options.output / GRID), "cells": told}, allow_nan=False))
    else:
        print(options.output / GRID)


def _cell(
    painter: Painter, base: PictureSettings, across: Axis, down: Axis | None, row: int, column: int
) -> PictureSettings:
    changed = {setting(across.option): across.values[column]}
    if down is not None:
        changed[setting(down.option)] = down.values[row]
    values = {**base.model_dump(), **changed}
    return painter.settings(values.pop("prompt"), values.pop("subject_word"), **values)


def _claim(folder: Path, files: list[Path], *, overwrite: bool) -> None:
    """Check that the files can be written into a folder that may have to be made."""
    require_folder(folder)
    for path in files if folder.is_dir() else ():
        require_free(path, overwrite=overwrite)
