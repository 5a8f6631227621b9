"""Markdown tables of the benchmarks, whose rows are measured one by one and printed as they come."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Sequence

from realcustom.evaluation.scores import with_interval


def chosen(parser: argparse.ArgumentParser, asked: Sequence[str], tables: Collection[str]) -> list[str]:
    """Return the tables that are asked for, or all; end the program where there is no such table."""
    if unknown := set(asked) - set(tables):
        parser.error(f"there is no table {', '.join(sorted(unknown))}; there are {', '.join(tables)}")
    return list(asked or tables)


def folder_name(row: str) -> str:
    """Return a row's name as that of a folder."""
    return re.sub(r"[^\w.]+", "-", row).strip("-.")


def begin(*columns: str) -> None:
    """Print a table's head."""
    print(f"\n{_line(columns)}\n|{'---|' * len(columns)}")


def add(*cells: str) -> None:
    """Print a table's next row."""
    print(_line(cells), flush=True)


def share(figure: Sequence[float] | None) -> str:
    """Return [mean, low, high] or [mean] of a figure whose size is at most 1, as in ".50 (.45 to .55)"; nothing of None."""
    return re.sub(r"\b0\.", ".", with_interval(figure, ".2f"))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
