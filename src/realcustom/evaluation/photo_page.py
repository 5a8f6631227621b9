"""The report on photographs for people: one page that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from realcustom.evaluation.cases import Case
from realcustom.evaluation.markup import STYLE, figure, table
from realcustom.evaluation.photographs import FIGURES, ROWS
from realcustom.evaluation.scatter import points_of, scatter
from realcustom.evaluation.scores import best_median_worst
from realcustom.files import write_whole
from realcustom.pictures import folded, read_picture, sheet

SIDE = 128
"""Of the pictures on the page, in pixels."""


def write_page(report: Mapping[str, Any], cases: Sequence[Case], folders: Mapping[str, Path], path: Path) -> None:
    """Write the page: figures, similarity against control, and the best, median and worst pictures.

    Args:
        report: of `photographs.summarise`.
        cases: the work list.
        folders: of the rows that were made.
        path: of the page.
    """
    about = ", ".join(f"{name} {value}" for name, value in report.items() if isinstance(value, (str, int, float)))
    encoders = "".join(f"<li>{name}: {escape(told)}</li>" for name, told in report["encoders"].items())
    meaning = "".join(f"<li><b>{name.replace('_', ' ')}</b>: {told}</li>" for name, told in FIGURES.items())
    broken_down = "".join(
        f"<h2>By {name}</h2>{_table(report[f'by_{name}'])}" for name in ("family", "word") if report[f"by_{name}"]
    )
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(report["benchmark"])}</title>'
        f"<style>{STYLE}</style><h1>{escape(report['benchmark'])}</h1><p>{escape(about)}</p><ul>{encoders}</ul>"
        f"{_table(report['rows'], ROWS)}<p><small>Mean and 95 % interval by bootstrap over subjects.</small></p>"
        f"<ul>{meaning}</ul>{_scatter(report['rows'])}{broken_down}{_cases(report['records'], cases, folders)}</html>"
    )
    write_whole(page, path)


def grid(cases: Sequence[Case], folders: Mapping[str, Path], columns: int = 10) -> Image.Image:
    """Return a column for each subject, or pair: references, a picture of one sentence each, and the same by text alone.

    The first subject is shown under its first sentence, the second under its second one, and so on in turn.
    """
    shown = _one_each(cases)
    rows = [
        [subject.reference for subject in subjects] for subjects in zip(*(case.subjects for case in shown), strict=True)
    ]
    rows += [[folders[row] / case.path for case in shown] for row in _MADE if row in folders]
    return folded([[_small(read_picture(path)) for path in row] for row in rows], columns)


def _one_each(cases: Sequence[Case]) -> list[Case]:
    """Return a case of each group: of the first one its first sentence, of the second one its second, and so on in turn."""
    of_group: dict[str, dict[str, Case]] = {}
    for case in cases:
        of_group.setdefault(case.group, {}).setdefault(case.prompt, case)
    return [list(own.values())[turn % len(own)] for turn, own in enumerate(of_group.values())]


_MADE = ("subject", "text")
"""The rows whose pictures are shown beside the references."""

_RANKED_BY = {"clip_t": "CLIP-T", "dino": "DINO-I"}
"""Control and similarity, by which pictures are ranked."""


def _table(rows: Mapping[str, Any], told: Mapping[str, str] | None = None) -> str:
    """Return every figure of every row; of what no row has, that it was not measured."""
    shown = [name for name in FIGURES if any(name in figures for figures in rows.values())]
    absent = {name.replace("_", " "): dict.fromkeys(rows, "not measured") for name in FIGURES if name not in shown}
    return table(rows, shown, told=told, meaning=FIGURES, more=absent)


def _scatter(rows: Mapping[str, Any]) -> str:
    """Return similarity (DINO-I) against control (CLIP-T) as a drawing; the rows that have both."""
    drawn = scatter(points_of(rows, "clip_t", "dino"), "CLIP-T (control)", "DINO-I (similarity)")
    return drawn and f"<h2>Similarity and control</h2>{drawn}"


def _cases(
    records: Sequence[Mapping[str, Any]], cases: Sequence[Case], folders: Mapping[str, Path], count: int = 8
) -> str:
    """Return the best, median and worst pictures; where they were not measured, one of each subject."""
    made = {record["picture"]: record for record in records if record["row"] == "subject"}
    by_path = {str(case.path): case for case in cases}
    groups = {
        name: [by_path[record["picture"]] for record in group]
        for name, group in best_median_worst(list(made.values()), tuple(_RANKED_BY), count).items()
    }
    shown = [name for name in _MADE if name in folders]
    return "".join(
        f"<h2>{name}</h2>{''.join(_figure(made[str(case.path)], case, folders, shown) for case in group)}"
        for name, group in (groups or {"One of each": _one_each(cases)}).items()
    )


def _figure(record: Mapping[str, Any], case: Case, folders: Mapping[str, Path], shown: Sequence[str]) -> str:
    paths = [subject.reference for subject in case.subjects] + [folders[row] / case.path for row in shown]
    strip = sheet([_small(read_picture(path)) for path in paths], columns=len(paths))
    told = [case.group, *(f"{label} {record[name]:.3f}" for name, label in _RANKED_BY.items() if name in record)]
    return figure(strip, f"{escape(case.prompt)} <small>({escape(', '.join(told))})</small>")


def _small(picture: Image.Image) -> Image.Image:
    """Return a picture in a square of `SIDE` pixels, whole."""
    small = Image.new("RGB", (SIDE, SIDE), "white")
    fitted = picture.convert("RGB")
    fitted.thumbnail((SIDE, SIDE))
    small.paste(fitted, ((SIDE - fitted.width) // 2, (SIDE - fitted.height) // 2))
    return small
