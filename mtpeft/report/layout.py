"""The frame of the page and its building blocks: sections, cards, folds, and the places the charts are drawn in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mtpeft.report.charts import Chart
from mtpeft.report.groups import Comparison, Results, plural
from mtpeft.report.markup import escape, key

# The browser itself refuses any load from elsewhere, so "self-contained" is not only a promise.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
FORMULAS = ("formulas", "How each number is computed")
RECIPE_NOTE = "The full resolved recipe of every run, input normalisation included."
FROZEN_NOTE = "The hash of all backbone weights, taken before training and after it."


class Plots:
    """Counts the charts, so that each has an id that is the same in every build."""

    def __init__(self) -> None:
        self.count = 0

    def place(self, chart: Chart) -> str:
        """A place for a chart and its data; script.js draws it."""
        self.count += 1
        # In a script element only "<" could end the element; the rest of JSON needs no escape.
        data = chart.json.replace("<", "\\u003c")
        return (
            f'<div class="plot" id="plot-{self.count}" role="img" aria-label="{escape(chart.label)}"'
            f' style="height:{chart.height}px"></div>'
            f'<script type="application/json" data-plot="plot-{self.count}">{data}</script>'
        )


def document(comparisons: Sequence[Comparison], prefix: str, body: Sequence[str]) -> str:
    """The whole page: sections `body`, of which those about the comparisons have ids that begin with `prefix`."""
    labels = list(dict.fromkeys(group.label for comparison in comparisons for group in comparison.groups))
    title = f"mtpeft: {' · '.join(labels) if len(labels) <= 3 else f'{len(labels)} methods compared'}"
    runs = sum(len(comparison.runs) for comparison in comparisons)
    groups = sum(len(comparison.groups) for comparison in comparisons)
    backbones = sorted({run["backbone"]["name"] for comparison in comparisons for _, run in comparison.runs})
    lead = f"{plural(groups, 'method')}, {plural(runs, 'run')}, on {' and '.join(backbones)}."
    links = [(f"{prefix}-{number}", comparison.title) for number, comparison in enumerate(comparisons, 1)]
    return page(title, lead, [*links, FORMULAS], body)


def page(title: str, lead: str, links: Sequence[tuple[str, str]], body: Sequence[str]) -> str:
    """The whole page: `links` are (id, title) of the sections among `body`."""
    import plotly.offline

    folder = Path(__file__).parent
    style = (folder / "style.css").read_text(encoding="utf-8")
    script = (folder / "script.js").read_text(encoding="utf-8")
    head = (
        '<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>"
    )
    main = "\n".join([_header(title, lead, links), "<main>", *body, "</main>"])
    scripts = f"<script>{plotly.offline.get_plotlyjs()}</script>\n<script>\n{script}</script>"
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{main}\n{scripts}\n</body>\n</html>\n'


def _header(title: str, lead: str, links: Sequence[tuple[str, str]]) -> str:
    items = "".join(f'<li><a href="#{target}">{escape(text)}</a></li>' for target, text in links)
    noscript = "<noscript><p>The charts need JavaScript; all their numbers are in the tables.</p></noscript>"
    return (
        f'<header><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>'
        f'<nav aria-label="Sections"><ul>{items}</ul></nav>{noscript}</header>'
    )


def section(name: str, title: str, *cards: str) -> str:
    """A part of the page with a heading and an id to link to."""
    return f'<section id="{name}"><h2>{escape(title)}</h2>{"".join(cards)}</section>'


def card(title: str, note: str, *content: str) -> str:
    """A box with a heading and a note; `content` is HTML."""
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    text = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<section class="card">{heading}{text}{"".join(content)}</section>'


def details(summary: str, content: str) -> str:
    """HTML that is folded away."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def titled(title: str, content: str) -> str:
    """HTML under a small heading, as an element of a grid."""
    return f"<div><h4>{escape(title)}</h4>{content}</div>"


def grid(items: Sequence[str], size: str = "") -> str:
    """Elements side by side as far as there is room; `size` is "small", "wide", "maps", "cases" or empty."""
    return f'<div class="{f"grid {size}".strip()}">{"".join(items)}</div>'


def legend(comparison: Comparison, *others: str) -> str:
    """The groups with their colours and markers, then `others`."""
    items = [*(key(index, group.label) for index, group in enumerate(comparison.groups)), *others]
    return '<ul class="legend">' + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def recipes(comparison: Comparison) -> str:
    """The recipe of every run, folded."""
    return "".join(details(f"{group.label}, seed {run['seed']}", _recipe(run)) for group, run in comparison.runs)


def _recipe(run: Results) -> str:
    resolved = {"recipe": run["recipe"], "input": run["input"]}
    return f"<pre>{escape(json.dumps(resolved, indent=2, sort_keys=True, ensure_ascii=False))}</pre>"
