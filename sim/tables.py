"""Tables and pictures of a report, as text for a terminal and as one page that loads nothing."""

import html
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

NONE = "–"
NARROW = 4  # so many columns fit a telephone
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem;
  color: #222; background: #fff; }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: right; border-bottom: 1px solid #ddd;
  white-space: nowrap; }
th { vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } .hint { display: none; }
.note, .hint { color: #555; margin: 0 0 .5rem; }
.lead { font-size: 1.1rem; max-width: 60rem; } .said { max-width: 60rem; }
h1, h2, p { overflow-wrap: anywhere; } svg { width: 100%; min-width: 44rem; height: auto; }
@media (max-width: 46rem) {
  .hint { display: block; } dl { display: block; } dt { margin-top: .4rem; }
  body { padding: 0 .7rem; margin: 1rem auto; } h1 { font-size: 1.4rem; }
  td:first-child, th:first-child { white-space: normal; min-width: 7rem; }
}
"""
HINT = "<p class='hint'>Wider than this screen: move it sideways.</p>"


class Table(NamedTuple):
    """One table; `note` says what its numbers are."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    is_told_empty: bool = False  # its note says something where there are no rows
    sentences: tuple[str, ...] = ()  # below it: what the rows come to


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


def text(head: Mapping[str, str], found: Sequence[Table], lead: Sequence[str] = ()) -> str:
    """Return what is said first, head and tables as lines for a terminal."""
    width = max(map(len, head))
    lines = [*lead, ""] if lead else []
    lines += [f"{name:<{width}}  {words}" for name, words in head.items()]
    for table in found:
        lines += ["", table.title, f"  ({table.note})", *_rows(table)]
        lines += [f"  {x}" for x in table.sentences]
    return "\n".join(lines)


def _rows(table: Table) -> list[str]:
    """Return a table's lines: the first column to the left, the others to the right."""
    if not table.rows:
        return []
    whole = [table.columns, *table.rows]
    widths = [max(len(row[n]) for row in whole) for n in range(len(table.columns))]
    return [
        "  " + "  ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in whole
    ]  # fmt: skip


def page(
    heading: str,
    head: Mapping[str, str],
    parts: Sequence[Table | Picture],
    *,
    lead: Sequence[str] = (),
    words: Sequence[tuple[str, str]] = (),
) -> str:
    """Return the page: one file, nothing to load; `words` are explained at its end."""
    made = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(heading)}</title>",
        f"<style>{STYLE}</style></head><body>",
        f"<h1>{html.escape(heading)}</h1>",
        *(f"<p class='lead'>{html.escape(x)}</p>" for x in lead),
        _terms(head.items()),
    ]
    for part in parts:
        made.append(f"<h2>{html.escape(part.title)}</h2>")
        made.append(
            f"{HINT}<div class='wide'>{part.svg}</div>" if isinstance(part, Picture)
            else _table(part)
        )  # fmt: skip
    if words:
        made.append(f"<h2>Words</h2>{_terms(words)}")
    return "\n".join([*made, "</body></html>", ""])


def _terms(found: Iterable[tuple[str, str]]) -> str:
    """Return names and what stands beside them."""
    made = (f"<dt>{html.escape(x)}</dt><dd>{html.escape(said)}</dd>" for x, said in found)
    return f"<dl>{''.join(made)}</dl>"


def _table(found: Table) -> str:
    cells = "".join(f"<th>{html.escape(x)}</th>" for x in found.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(x)}</td>" for x in row) + "</tr>" for row in found.rows
    )
    note, hint = (
        f"<p class='note'>{html.escape(found.note)}</p>",
        HINT * (len(found.columns) > NARROW),
    )
    whole = f"<table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>"
    said = "".join(f"<p class='said'>{html.escape(x)}</p>" for x in found.sentences)
    return note + (f"{hint}<div class='wide'>{whole}</div>" if rows else "") + said
