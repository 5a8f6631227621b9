"""Several evaluations of one work list side by side: a table and a drawing of similarity against control."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from realcustom.errors import InputError
from realcustom.evaluation.markup import STYLE, table
from realcustom.evaluation.output import OF_EVERY_CALL, REPORT
from realcustom.evaluation.run import FIGURES
from realcustom.evaluation.scatter import points_of, scatter
from realcustom.evaluation.scores import means_of
from realcustom.files import read_json, reason

BESIDE = ("twin", "copy", "oracle")
"""Rows that are shown beside the methods, once; text alone only if it would be the same of all evaluations."""

_OF_A_TWIN = ("model", "dtype", "scheduler", "schedule", *OF_EVERY_CALL)
"""What decides a picture by text alone."""

_OF_THE_LIST = ("benchmark", "split", "bench", "judges")
"""What evaluations must have in common to be compared."""


SHOWN = (
    "similarity", "identity", "control", "place", "colour", "worn", "beside", "position", "noun", "leak", "paste",
)  # fmt: skip
"""The figures of the table."""


def read_reports(folders: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Return the reports of evaluations of StickerBench, by the names of their folders.

    Raises:
        InputError: one cannot be read, or they are of different lists, parts of them or judges.
    """
    reports: dict[str, dict[str, Any]] = {}
    for folder in folders:
        path = folder / REPORT
        if not path.is_file():
            raise InputError(f"{folder} holds no {REPORT}; make it with: realcustom evaluate --output {folder}")
        told = read_json(path)
        rows = told.get("rows")
        if "families" not in told or not isinstance(rows, dict) or "pictures" not in rows.get("subject", ()):
            raise InputError(f"{path} is no report on subjects of StickerBench")
        try:
            _of_subjects(told["records"])
        except (LookupError, TypeError) as error:
            raise InputError(
                f"{path} does not hold the scores of every picture; make it again with the command that made it"
            ) from error
        if folder.name in reports:
            raise InputError(f"two of the folders are called {folder.name}; rename one")
        reports[folder.name] = told
    first_name, first = next(iter(reports.items()))
    for name, told in reports.items():
        other = [key for key in _OF_THE_LIST if told.get(key) != first.get(key)]
        if other:
            raise InputError(f"{name} and {first_name} differ in {', '.join(other)}, so that they cannot be compared")
    return reports


def differences(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return how each evaluation differs from the first one, by the names of their reports.

    Both show the same subjects under the same sentences, so that the difference is taken picture by picture: what makes a
    subject easy or hard for all falls out of its interval.

    Returns:
        For all but the first, "pictures", how many both have; and [mean, low, high] of the difference of every figure of
        `SHOWN`, by bootstrap over subjects.
    """
    first_records, *others = (_of_subjects(told["records"]) for told in reports.values())
    found: dict[str, dict[str, Any]] = {}
    for name, own in zip(list(reports)[1:], others, strict=True):
        pairs = [(own[number], first) for number, first in first_records.items() if number in own]
        found[name] = means_of(
            [
                {
                    "group": one["group"],
                    **{name: one[name] - first[name] for name in SHOWN if name in one and name in first},
                }
                for one, first in pairs
            ],
            SHOWN,
        )
    return found


def _of_subjects(records: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """Return the records of an evaluation's pictures of subjects by their numbers."""
    return {record["number"]: record for record in records if record["row"] == "subject"}


def tuning_seconds(folder: Path) -> float | None:
    """Return how long a subject was learned in an evaluation, the mean; None if none was.

    Raises:
        InputError: the file that says it cannot be read.
    """
    path = folder / "tuning.jsonl"
    if not path.is_file():
        return None
    try:
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        # A run that was killed at the wrong moment says it twice.
        seconds = {line["subject"]: float(line["seconds"]) for line in lines}
        return float(np.mean(list(seconds.values()))) if seconds else None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path} does not say line by line how long each subject took: {reason(error)}") from error


def rows_of(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the figures of every method's pictures of subjects, then those of the rows beside them."""
    rows = {name: dict(told["rows"]["subject"]) for name, told in reports.items()}
    first = next(iter(reports.values()))
    alike = all(told.get(name) == first.get(name) for told in reports.values() for name in _OF_A_TWIN)
    for row in BESIDE:
        known = [told["rows"][row] for told in reports.values() if row in told["rows"]]
        if known and (row != "twin" or alike):
            rows[f"({row})"] = dict(known[0])
    return rows


def page(
    reports: Mapping[str, Mapping[str, Any]], seconds: Mapping[str, float], apart: Mapping[str, Mapping[str, Any]]
) -> str:
    """Return the comparison as one page that needs no other file.

    Args:
        reports: of the methods, by name.
        seconds: of those that are tuned to each subject, how long that took in the mean.
        apart: how they differ from the first, see `differences`.
    """
    rows = rows_of(reports)
    shown = [name for name in SHOWN if any(name in figures for figures in rows.values())]
    more = {"seconds per subject": {row: f"{spent:.0f}" for row, spent in seconds.items()}}
    first = next(iter(reports.values()))
    about = ", ".join(f"{name} {first[name]}" for name in _OF_THE_LIST)
    beside = f"<h2>Minus {escape(next(iter(reports)))}</h2>{table(apart, shown, meaning=FIGURES)}" if apart else ""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Comparison</title><style>{STYLE}</style>'
        f"<h1>Comparison</h1><p>{escape(about)}</p>{drawing(reports)}{table(rows, shown, meaning=FIGURES, more=more)}"
        "<p><small>Mean and 95 % interval by bootstrap over subjects. Rows in brackets are no methods: the same sentences by "
        f"text alone, the reference itself, and real renders.</small></p>{beside}</html>"
    )


def drawing(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Return similarity against control as an SVG element: the methods and, where they could get to, real renders.

    The reference itself and text alone, of no control and no similarity, would leave the methods no room.
    """
    rows = {row: figures for row, figures in rows_of(reports).items() if row in reports or row == "(oracle)"}
    return scatter(points_of(rows, "control", "similarity"), "control", "similarity")
