"""Tables and lists in a terminal or a pipe, never cut: the layout is the one the width has room for."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

Cell: TypeAlias = str | Text

#: a cell up to this long stays on one line, a longer one may go on in the next line at a space
SHORT = 14
#: title lines of a table that is printed as it is, without a look at other layouts
TITLE_LINES = 3
NUMBER = re.compile(r"[−+-]?\d[\d,.]*( ± [\d,.]+)?( %| [KMGT]?i?B)?|–")


def size_text(size: float) -> str:
    """A number of bytes in the unit that suits it: "17 B", "4.0 KiB", "82.3 MiB"."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    step = 0
    while abs(size) >= 1024 and step < len(units) - 1:
        size, step = size / 1024, step + 1
    return f"{size:.0f} B" if step == 0 else f"{size:.1f} {units[step]}"


def print_table(
    console: Console,
    head: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    title: str = "",
    transposable: bool = True,
) -> None:
    """Print a table whose first column names the rows.

    Numbers and words are never cut. Where the width has no room for the table, it becomes several with some columns
    each, or rows and columns change places (`transposable`), whichever takes fewer lines; where a word alone is too
    long for that, every row is a list of its own.
    """
    if title:
        console.print(Text(title, "italic"))
    plain = [tuple(cell if isinstance(cell, Text) else Text(cell) for cell in row) for row in (head, *rows)]
    grids = [list(zip(*plain, strict=True))]  # columns, the titles first
    if transposable and len(rows) > 0:
        grids.append(plain)
    layouts: list[Sequence[RenderableType]] = []
    for grid in grids:
        parts = _parts([_Column(tuple(cells)) for cells in grid], console.width)
        if parts is None:
            continue
        tables = [_table(part, console.width) for part in parts]
        if not layouts and grid is grids[0] and len(parts) == 1 and _at_ease(parts[0], console.width):
            layouts = [tables]
            break
        layouts.append(tables)
    if layouts:
        options = console.options
        for table in min(layouts, key=lambda tables: sum(len(console.render_lines(t, options)) for t in tables)):
            console.print(table)
        return
    for name, *values in plain[1:]:
        console.print(name, soft_wrap=True)
        for column, value in zip(head[1:], values, strict=True):
            console.print(Text.assemble("  ", (" ".join(column.split()), ""), ": ", value), soft_wrap=True)


def print_list(
    console: Console, rows: Sequence[Sequence[str]], indent: int = 2, styles: Mapping[str, str] | None = None
) -> None:
    """Print rows of words in columns without lines; the last column goes on below itself at a space, uncut.

    Where the first columns leave it no room, it begins on a line of its own. `styles`: of words in the first column.
    """
    widths = [max(map(cell_len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    start = indent + sum(width + 2 for width in widths)
    for *first, last in rows:
        line = " " * indent + "".join(
            cell + " " * (width + 2 - cell_len(cell)) for cell, width in zip(first, widths, strict=True)
        )
        below = start + max(map(len, last.split()), default=0) > console.width and start > indent + 4
        left = indent + 4 if below else start
        lines = textwrap.wrap(last, max(console.width - left, 1), break_long_words=False, break_on_hyphens=False)
        printed = [line, *(" " * left + text for text in lines)] if below else _hanging(line, left, lines)
        for number, text in enumerate(printed):
            shown = Text(text.rstrip())
            if number == 0 and first and first[0] in (styles or {}):
                shown.stylize((styles or {})[first[0]], indent, indent + len(first[0]))
            console.print(shown, soft_wrap=True)


def _hanging(line: str, left: int, lines: Sequence[str]) -> list[str]:
    """The lines behind `line`, and below each other."""
    return [(" " * left if number else line) + text for number, text in enumerate(lines or [""])]


def print_text(console: Console, text: str, indent: int = 0) -> None:
    """Print a paragraph, wrapped at spaces alone."""
    margin = " " * indent
    lines = textwrap.wrap(
        text,
        console.width,
        initial_indent=margin,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )
    console.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)


@dataclass(frozen=True)
class _Column:
    """A column of cells, its title first."""

    cells: tuple[Text, ...]

    @property
    def narrowest(self) -> int:
        """The width below which a word or a number would be cut."""
        title, *cells = self.cells
        return max([*map(cell_len, title.plain.split()), *map(_narrowest, cells)], default=0)

    @property
    def values(self) -> int:
        """The width at which no cell below the title goes on in a second line."""
        return max((cell.cell_len for cell in self.cells[1:]), default=0)

    @property
    def title(self) -> int:
        """The width of the title in one line."""
        return self.cells[0].cell_len

    @property
    def numbers(self) -> bool:
        """Whether it holds a number: numbers stand below each other by their last digit."""
        return any(NUMBER.fullmatch(cell.plain) for cell in self.cells[1:])


def _narrowest(cell: Text) -> int:
    """The width of a cell that must not be broken, or of its longest word."""
    if cell.cell_len <= SHORT or "±" in cell.plain:
        return cell.cell_len
    return max(map(cell_len, cell.plain.split()), default=0)


def _parts(columns: Sequence[_Column], width: int) -> list[list[_Column]] | None:
    """The columns in as few tables as the width has room for, the first in each; None where one alone is too wide."""
    label, *others = columns
    room = width - 1 - (max(label.narrowest, min(label.values, width // 3)) + 3)
    parts: list[list[_Column]] = []
    used = width
    for column in others:
        needed = column.narrowest + 3
        if needed > room:
            return None
        if used + needed > room:
            parts.append([label])
            used = 0
        parts[-1].append(column)
        used += needed
    return parts or [[label]]


def _widths(columns: Sequence[_Column], width: int) -> list[int]:
    """Widths of the columns of one table: what must be, then what cells need for one line, then what titles need."""
    widths = [column.narrowest for column in columns]
    for goals in ([c.values for c in columns], [c.title for c in columns]):
        spare = max(width - 1 - sum(w + 3 for w in widths), 0)
        wanted = [max(goal - w, 0) for goal, w in zip(goals, widths, strict=True)]
        if sum(wanted) > spare:
            wanted = [want * spare // sum(wanted) for want in wanted]
        widths = [w + want for w, want in zip(widths, wanted, strict=True)]
    return widths


def _at_ease(columns: Sequence[_Column], width: int) -> bool:
    """Whether no cell goes on in a second line, and titles take few."""
    return all(
        given >= column.values and column.title <= given * TITLE_LINES
        for column, given in zip(columns, _widths(columns, width), strict=True)
    )


def _table(columns: Sequence[_Column], width: int) -> RenderableType:
    table = Table()
    for column, given in zip(columns, _widths(columns, width), strict=True):
        right = column is not columns[0] and column.numbers
        table.add_column(column.cells[0], width=given, justify="right" if right else "left", overflow="fold")
    for row in zip(*(column.cells[1:] for column in columns), strict=True):
        table.add_row(*row)
    return table
