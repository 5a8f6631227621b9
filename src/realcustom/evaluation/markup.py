"""Parts of pages that need no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 100rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; display: block; font-size: 13px; overflow-x: auto }
td, th { padding: .25rem .6rem; text-align: right; white-space: nowrap }
th:first-child, td:first-child { min-width: 12rem; text-align: left; white-space: normal }
tr:nth-child(even) { background: #f4f4f6 } small { color: #777 }
figure { display: inline-block; margin: .4rem .8rem .4rem 0; font-size: 12px } figcaption { max-width: 26rem }
"""


def figure(picture: Image.Image, caption: str) -> str:
    """Return a picture and what HTML says of it as a figure that needs no other file."""
    written = io.BytesIO()
    picture.save(written, "PNG")
    data = base64.b64encode(written.getvalue()).decode()
    return f'<figure><img src="data:image/png;base64,{data}" alt=""><figcaption>{caption}</figcaption></figure>'


def table(
    rows: Mapping[str, Any],
    shown: Sequence[str],
    *,
    of: str = "",
    told: Mapping[str, str] | None = None,
    meaning: Mapping[str, str] | None = None,
    more: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """Return figures and their intervals as an HTML table.

    Args:
        rows: of figures, by name.
        shown: names of the figures, in their order.
        of: what a row is.
        told: what each row means.
        meaning: what each figure means.
        more: further columns by name, of each the cells by row.
    """
    more, meaning = more or {}, meaning or {}
    titles = {name: f' title="{escape(meaning[name])}"' if name in meaning else "" for name in shown}
    head = "".join(f"<th{title}>{name.replace('_', ' ')}</th>" for name, title in titles.items())
    head += "".join(f"<th>{name}</th>" for name in more)
    body = "".join(
        f"<tr><td>{escape(row)}{f'<br><small>{escape(told[row])}</small>' if told else ''}</td><td>{figures['pictures']}</td>"
        + "".join(f"<td>{cell(figures.get(name))}</td>" for name in shown)
        + "".join(f"<td>{cells.get(row, '')}</td>" for cells in more.values())
        + "</tr>"
        for row, figures in rows.items()
    )
    return f"<table><tr><th>{of}</th><th>pictures</th>{head}</tr>{body}</table>"


def cell(figure: Sequence[float] | None) -> str:
    """Return a figure and its interval, [mean, low, high], as they stand in a table; nothing if it was not measured."""
    if figure is None:
        return ""
    return f"{figure[0]:.3f}" + (f"<br><small>{figure[1]:.3f} to {figure[2]:.3f}</small>" if len(figure) > 1 else "")
