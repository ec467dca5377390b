"""Tables and pictures of a report, as text for a terminal and as one page that loads nothing."""

import html
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

NONE = "–"
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem;
  color: #222; background: #fff; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid #ddd; }
th { vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
.wide { overflow-x: auto; } .note { color: #555; margin: 0 0 .5rem; }
h1 { overflow-wrap: anywhere; } svg { width: 100%; min-width: 44rem; height: auto; }
"""


class Table(NamedTuple):
    """One table; `note` says what its numbers are."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    is_told_empty: bool = False  # its note says something where there are no rows


class Picture(NamedTuple):
    """A plot for the page: an SVG element."""

    title: str
    svg: str


def span(seconds: float) -> str:
    """Return a duration in words."""
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"


def day(time: float) -> str:
    """Return a time as date and minute, UTC."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M")


def text(head: Mapping[str, str], found: Sequence[Table]) -> str:
    """Return head and tables as lines for a terminal."""
    width = max(map(len, head))
    lines = [f"{name:<{width}}  {words}" for name, words in head.items()]
    for table in found:
        lines += ["", table.title, f"  ({table.note})", *_rows(table)]
    return "\n".join(lines)


def _rows(table: Table) -> list[str]:
    """Return a table's lines: the first column to the left, the others to the right."""
    whole = [table.columns, *table.rows]
    widths = [max(len(row[n]) for row in whole) for n in range(len(table.columns))]
    return [
        "  " + "  ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in whole
    ]  # fmt: skip


def page(heading: str, head: Mapping[str, str], parts: Sequence[Table | Picture]) -> str:
    """Return the page: one file, nothing to load."""
    facts = "".join(
        f"<tr><td>{html.escape(name)}</td><td style='text-align:left'>{html.escape(words)}</td>"
        "</tr>"
        for name, words in head.items()
    )
    made = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(heading)}</title>",
        f"<style>{STYLE}</style></head><body>",
        f"<h1>{html.escape(heading)}</h1>",
        f"<div class='wide'><table>{facts}</table></div>",
    ]
    for part in parts:
        made.append(f"<h2>{html.escape(part.title)}</h2>")
        if isinstance(part, Picture):
            made.append(f"<div class='wide'>{part.svg}</div>")
            continue
        cells = "".join(f"<th>{html.escape(x)}</th>" for x in part.columns)
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(x)}</td>" for x in row) + "</tr>"
            for row in part.rows
        )
        made.append(
            f"<p class='note'>{html.escape(part.note)}</p>"
            f"<div class='wide'><table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>"
            "</div>"
        )
    return "\n".join([*made, "</body></html>", ""])
