"""Lists of pictures to make: from CSV, JSONL and YAML files to rows by name."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from realcustom.errors import InputError

NEEDED = ("subject", "word", "prompt")
"""What every row must have."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV, JSONL or YAML file, without what is empty.

    Names are taken whatever their case, with dashes for underscores.

    Raises:
        InputError: the file cannot be read, is of another kind, holds no rows, or none that has what every row must have.
    """
    parse = _PARSERS.get(path.suffix.lower())
    if parse is None:
        raise InputError(f"the list must be a file of {', '.join(_PARSERS)}, but is {path}")
    try:
        rows = parse(path.read_text("utf-8-sig"))  # spreadsheets begin with a mark of the encoding
        if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) for row in rows):
            raise InputError(f"it must hold one row or more, each with {', '.join(NEEDED)} by name")
        named = [_named(row.items(), f"row {number}") for number, row in enumerate(rows, start=1)]
        _require_columns([name for row in named for name in row])
    except UnicodeDecodeError as error:
        raise InputError(f"the list {path} is not UTF-8; save it as UTF-8") from error
    except (OSError, ValueError, csv.Error, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"the list {path} cannot be read: {error}") from error
    return [{name: value for name, value in row.items() if value not in (None, "")} for row in named]


def _csv(text: str) -> Sequence[Mapping[str, Any]]:
    lines = [_without_the_empty_end(line) for line in csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)]
    header, *rows = [line for line in lines if line] or [[]]
    if not header:
        return []
    names = list(_named([(name, None) for name in header], "the first line"))
    _require_columns(
        names, "; separate the columns by commas" if len(names) == 1 and set(names[0]) & set(";\t") else ""
    )
    for number, row in enumerate(rows, start=1):
        if len(row) > len(names):
            raise InputError(
                f"row {number} has {len(row)} cells, but there are {len(names)} columns; put a prompt that has a comma "
                f'into quotes, as in ,"a toy, in the snow",'
            )
    return [dict(zip(names[: len(row)], row, strict=True)) for row in rows]


def _without_the_empty_end(cells: Sequence[str]) -> list[str]:
    filled = [number for number, cell in enumerate(cells, start=1) if cell.strip()]
    return list(cells[: max(filled, default=0)])


def _jsonl(text: str) -> list[object]:
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    return [_json(line, f"line {number}") for number, line in lines]


def _json(line: str, where: str) -> object:
    try:
        return json.loads(line, object_pairs_hook=lambda pairs: _named(pairs, where))
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is no JSON: {error.msg}, at its column {error.colno}") from error


_PARSERS: dict[str, Callable[[str], Any]] = {
    ".csv": _csv,
    ".jsonl": _jsonl,
    ".yaml": yaml.safe_load,
    ".yml": yaml.safe_load,
}


def _named(values: Iterable[tuple[Any, Any]], where: str) -> dict[str, Any]:
    """Return the values of a row by the names that options have."""
    named: dict[str, Any] = {}
    for given, value in values:
        name = str(given).strip().lower().replace("_", "-")
        if name in named:
            raise InputError(f"{where} says {name} twice; leave one of them out (- and _ are the same in a name)")
        named[name] = value
    return named


def _require_columns(names: Sequence[str], remedy: str = "") -> None:
    absent = [name for name in NEEDED if name not in names]
    if absent:
        found = ", ".join(map(repr, dict.fromkeys(names))) or "nothing"
        raise InputError(f"it has no {' and no '.join(absent)}, but only {found}{remedy}")
