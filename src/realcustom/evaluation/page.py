"""The report for people: a page with the figures, and the best, median and worst pictures beside their references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from realcustom.evaluation import history
from realcustom.evaluation.benchmark import FAMILIES, Item, StickerBench, picture_file
from realcustom.evaluation.markup import STYLE, figure, table
from realcustom.evaluation.run import FIGURES, ROWS
from realcustom.evaluation.scatter import points_of, scatter
from realcustom.evaluation.scores import best_median_worst
from realcustom.files import write_whole
from realcustom.pictures import folded, sheet, write_picture


def write_page(report: Mapping[str, Any], bench: StickerBench, folders: Mapping[str, Path], folder: Path) -> None:
    """Write `report.html` and `grid.png` (40 subjects) into `folder`."""
    if "subject" in folders:
        write_picture(grid(bench.one_each()[:40], folders), folder / "grid.png")
    write_whole(_page(report, _ranked(report["records"], bench, folders)), folder / "report.html")


def grid(items: Sequence[Item], folders: Mapping[str, Path], columns: int = 10) -> Image.Image:
    """Return references, pictures of their subjects and text-only twins if there are any, one above the other."""
    rows = [[Image.fromarray(item.example.reference) for item in items]]
    rows += [[_made(folders[row], item) for item in items] for row in _SHOWN if row in folders]
    return folded(rows, columns)


_SHOWN = ("subject", "twin")
"""The rows whose pictures are shown beside a reference."""


def _made(folder: Path, item: Item) -> Image.Image:
    return Image.open(folder / picture_file(item.number)).convert("RGB")


def _ranked(
    records: Sequence[Mapping[str, Any]], bench: StickerBench, folders: Mapping[str, Path], count: int = 12
) -> dict[str, list[str]]:
    """Return the best, median and worst pictures, each in a strip with its reference, as HTML."""
    made = [record for record in records if record["row"] == "subject"]
    groups = best_median_worst(made, ("similarity", "control"), count)
    return {name: [_strip(record, bench, folders) for record in group] for name, group in groups.items()}


def _strip(record: Mapping[str, Any], bench: StickerBench, folders: Mapping[str, Path]) -> str:
    item = bench.item(record["number"])
    made = [_made(folders[row], item) for row in _SHOWN if row in folders]
    pictures = [Image.fromarray(item.example.reference), *made, Image.fromarray(item.example.picture)]
    found = "found" if record["identity"] else "not found"
    figures = f"similarity {record['similarity']:.2f}, control {record['control']:.2f}"
    caption = f"{item.example.caption} <small>({item.subject}, {found}, {figures})</small>"
    return figure(sheet(pictures, columns=len(pictures)), caption)


def _page(report: Mapping[str, Any], ranked: Mapping[str, Sequence[str]]) -> str:
    shown = [name for name in FIGURES if any(name in figures for figures in report["rows"].values())]
    about = ", ".join(f"{name} {value}" for name, value in report.items() if isinstance(value, (str, int, float)))
    meaning = "".join(f"<li><b>{name.replace('_', ' ')}</b>: {FIGURES[name]}</li>" for name in shown)
    galleries = "".join(f"<h2>{name}</h2>{''.join(figures)}" for name, figures in ranked.items())
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>StickerBench</title><style>{STYLE}</style>'
        f"<h1>StickerBench</h1><p>{escape(about)}</p>"
        f"{table(report['rows'], shown, of='row', told=ROWS, meaning=FIGURES)}"
        f"<p><small>Mean and 95 % interval by bootstrap over subjects.</small></p><ul>{meaning}</ul>"
        f"<h2>Similarity and control</h2>{scatter(points_of(report['rows'], 'control', 'similarity'), 'control', 'similarity')}"
        f"<h2>By family of sentences</h2>{table(report['families'], shown, of='family', told=FAMILIES, meaning=FIGURES)}"
        f"<h2>By kind of subject</h2>{table(report['kinds'], shown, of='kind', meaning=FIGURES)}"
        f"{_by_step(report)}"
        "<p>Each strip: reference, picture, text-only twin of the same seed if there is one, a real render.</p>"
        f"{galleries}{_history(report['training'])}</html>"
    )


def _by_step(report: Mapping[str, Any]) -> str:
    """Return the overlaps of the masks of every step with the subject as an HTML table; nothing without masks."""
    if not report["mask_by_step"]:
        return ""
    whole = [report["rows"]["subject"]["mask_all"][0]] * len(report["mask_by_step"])
    of = {"the mask": report["mask_by_step"], "a random one": report["mask_random_by_step"], "the whole picture": whole}
    head = "".join(f"<th>{number}</th>" for number in range(1, len(whole) + 1))
    body = "".join(
        f"<tr><td>{name}</td>{''.join(f'<td>{value:.2f}</td>' for value in values)}</tr>" for name, values in of.items()
    )
    return f"<h2>Overlap of the mask with the subject, by step</h2><table><tr><th>step</th>{head}</tr>{body}</table>"


def _history(checkpoints: Sequence[Mapping[str, Any]]) -> str:
    if not checkpoints:
        return ""
    shown = [name for name in history.FIGURES if any(name in row for row in checkpoints)]
    head = "".join(f"<th>{name}</th>" for name in ("run", "step", "pictures", "hours", *shown))
    body = "".join(
        f"<tr><td>{escape(row['run'])}</td><td>{row['step']}</td><td>{row['examples']}</td><td>{row['hours']:.2f}</td>"
        + "".join(f"<td>{row[name]:.3f}</td>" if name in row else "<td></td>" for name in shown)
        + "</tr>"
        for row in checkpoints
    )
    return (
        f"<h2>Over training</h2><table><tr>{head}</tr>{body}</table>"
        "<p><small>On held-out scenes; NAME/T at timestep T. right and wrong: error with the right or a wrong reference over "
        "that without any.</small></p>"
    )
