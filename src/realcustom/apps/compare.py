"""`realcustom compare`: evaluations side by side."""

from __future__ import annotations

import argparse

from realcustom.apps.tables import aligned
from realcustom.errors import InputError
from realcustom.evaluation.comparison import differences, drawing, page, read_reports, rows_of, tuning_seconds
from realcustom.evaluation.scores import with_interval
from realcustom.files import require_place, write_whole

FIGURES = ("similarity", "identity", "control", "leak", "paste")
"""What is printed; the page shows more."""


def compare(options: argparse.Namespace) -> None:
    """Print a table, and write the page or the drawing.

    Raises:
        InputError: the evaluations cannot be compared, or the output is there already or of another kind.
    """
    output = options.output
    if output is not None and output.suffix not in (".html", ".svg"):
        raise InputError(f"--output must end in .html or .svg, but is {output}")
    if output is not None:
        require_place(output, overwrite=options.overwrite)
    reports = read_reports(options.folders)
    seconds = {folder.name: spent for folder in options.folders if (spent := tuning_seconds(folder)) is not None}
    table: list[tuple[str, ...]] = [("", "pictures", *FIGURES, "s per subject")]
    for row, figures in rows_of(reports).items():
        told = [f"{figures[name][0]:.3f}" if name in figures else "" for name in FIGURES]
        table.append((row, str(figures["pictures"]), *told, f"{seconds[row]:.0f}" if row in seconds else ""))
    print(aligned(table, indent=""))
    apart = differences(reports)
    if apart:
        print(f"\nminus {options.folders[0].name}, picture by picture, with 95 % intervals over subjects")
        rows = [
            (name, str(figures["pictures"]), *(with_interval(figures.get(one), "+.3f") for one in FIGURES))
            for name, figures in apart.items()
        ]
        print(aligned([("", "pictures", *FIGURES), *rows], indent=""))
    if output is not None:
        write_whole(page(reports, seconds, apart) if output.suffix == ".html" else drawing(reports), output)
        print(output)
