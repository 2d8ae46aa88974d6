"""CSV files as typed columns: which hold times, numbers, names. No torch here: the inspection uses it too."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from condiff.data import files

TIMES = frozenset({"date", "datetime", "timestamp", "time", "ds", "month", "day", "hour", "year"})
ITEMS = frozenset({"item_id", "series_id", "unique_id", "item", "series", "id"})
CLASSES = frozenset({"label", "labels", "class"})
YEARS = frozenset({"year", "date", "datetime", "ds"})
"""Whole numbers from 1000 to 2999 in a column of this name are years, in other time columns seconds since 1970."""
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "?"})


DAY_AND_MONTH = re.compile(r"(\d{1,2})([./-])(\d{1,2})\2(\d{4})(| \d.*|T\d.*)")
"""A date whose year comes last: 31.01.2024, 1/31/2024 12:00."""

DECIMAL_COMMA = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+),\d+|[+-]?\d{1,3}(\.\d{3})+")
"""A number as written where the comma comes before decimals, and points between thousands."""

RECIPE = "# condiff {"
"""How the first line of a table begins that this library wrote."""

COMMAS = re.compile(r"[+-]?(\d{1,3}(,\d{3})+(\.\d+)?|(\d+|\d{1,3}(\.\d{3})+),\d+)")
"""A number with commas, whatever they mean."""


@final
@dataclass(frozen=True)
class Table:
    """A CSV file by column. Lines are counted from 1 with the header, as editors show them.

    Args:
        path: The file.
        times: Name of the time column, or None.
        seconds: Seconds since 1970 of every row, float64 (R,), NaN where unreadable; empty without a time column.
        numbers: Numeric columns, float64 (R,), NaN where a cell is empty.
        names: Text columns, one string a row.
        num_rows: Rows R below the header.
        problems: What stops the file from being read, each one sentence with line numbers.
    """

    path: Path
    times: str | None
    seconds: NDArray[np.float64]
    numbers: dict[str, NDArray[np.float64]]
    names: dict[str, tuple[str, ...]]
    num_rows: int
    problems: tuple[str, ...]

    @property
    def item(self) -> str | None:
        """Column that says which series a row belongs to; None for a wide or plain table.

        It is one that is named so (`ITEMS`), or the first of texts: if times repeat, or all its texts are one.
        """
        if self.times is None:
            return None
        known = next((name for name in self.names if name.lower() in ITEMS), None)
        first = next(iter(self.names), None)
        if known is not None or first is None:
            return known
        times = self.seconds[np.isfinite(self.seconds)]
        return first if len(np.unique(times)) < len(times) or len(set(self.names[first])) == 1 else None


def parse(path: Path, most: int | None = None) -> Table:
    """Read a CSV file (comma, semicolon or tab), packed or not.

    Args:
        path: The file.
        most: Lines to look at; all if None.

    Raises:
        ValueError: If the file is damaged or not UTF-8; anything else is reported in `problems`.
    """
    return parse_text(files.text(path), path, most)


def parse_text(content: str, path: Path, most: int | None = None) -> Table:
    """Read the text of a CSV file; `path` is what it is called in messages."""
    if content.startswith(RECIPE):  # a table that this library wrote; the empty line keeps line numbers right
        content = "\n" + content.partition("\n")[2]
    delimiter = _delimiter(content)
    lines = list(csv.reader(content.splitlines()[:most], delimiter=delimiter))
    numbered = [(number, [cell.strip() for cell in cells]) for number, cells in enumerate(lines, 1) if any(cells)]
    if not numbered:
        return _broken(path, "the file is empty: expected a header line and rows of numbers")
    header = numbered[0][1]
    if all(_number(cell) is not None for cell in header):
        header = [f"column{place}" for place in range(len(header))]
    else:
        numbered = numbered[1:]
    problems = []
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        problems.append(f"the header names {files.listed(repeated)} twice: rename one")
    ragged = [number for number, cells in numbered if len(cells) != len(header)]
    if ragged:
        problems.append(
            f"line {files.listed(ragged)}: expected {len(header)} cells as in the header, "
            f"found {len(dict(numbered)[ragged[0]])}: correct or remove the line"
        )
    rows = [(number, cells) for number, cells in numbered if len(cells) == len(header)]
    if not rows:
        return _broken(path, *problems, "there are no rows below the header: add data")
    columns = {name: [cells[place] for _, cells in rows] for place, name in enumerate(header)}
    if delimiter != ",":
        columns = _with_points(columns)
    line_numbers = [number for number, _ in rows]
    times, seconds = _find_times(columns, line_numbers, problems)
    numbers: dict[str, NDArray[np.float64]] = {}
    names: dict[str, tuple[str, ...]] = {}
    for name, cells in columns.items():
        if name == times:
            continue
        values = [_number(cell) for cell in cells]
        wrong = [place for place, value in enumerate(values) if value is None]
        tells_apart = times is not None and name.lower() in ITEMS  # numbers of items are names
        commas = [place for place in wrong if COMMAS.fullmatch(cells[place])]
        if times is not None and len(commas) > len(wrong) / 2 and not tells_apart:
            problems.append(
                f"column {name}: {cells[commas[0]]!r} in line {line_numbers[commas[0]]} is no number that has one "
                "meaning: write 1234.5, with a point before decimals and nothing between thousands"
            )
            continue
        if len(wrong) > len(cells) / 2 or tells_apart:
            names[name] = tuple(cells)
            continue
        if wrong:
            shown = files.listed([f"{line_numbers[place]} ({cells[place]!r})" for place in wrong])
            problems.append(f"column {name}: not a number in line {shown}: correct or empty the cell")
        numbers[name] = np.array([math.nan if value is None else value for value in values])
        infinite = [line_numbers[place] for place in np.flatnonzero(np.isinf(numbers[name]))]
        if infinite:
            problems.append(f"column {name}: infinite in line {files.listed(infinite)}: correct or empty the cell")
    if not numbers and not any("is no number" in problem for problem in problems):
        problems.append(f"no column of numbers among {files.listed(header, 5)}: add one")
    return Table(path, times, seconds, numbers, names, len(rows), tuple(problems))


def _broken(path: Path, *problems: str) -> Table:
    return Table(path, None, np.empty(0), {}, {}, 0, problems)


def _delimiter(content: str) -> str:
    first = content.lstrip().split("\n", 1)[0]
    return max(",;\t", key=first.count)


def _number(cell: str) -> float | None:
    """Number in a cell, NaN if it is empty, None if it is something else."""
    if cell.lower() in MISSING:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return None


def _with_points(columns: dict[str, list[str]]) -> dict[str, list[str]]:
    """Write decimals with a point, in a table that is not told apart by commas and writes them with a comma.

    One number whose comma cannot stand between thousands, such as 45,3 or 1234,567, tells it for the whole table.
    """
    commas = [cell for cells in columns.values() for cell in cells if "," in cell and DECIMAL_COMMA.fullmatch(cell)]
    if all(re.fullmatch(r"[+-]?\d{1,3},\d{3}", cell) for cell in commas):
        return columns
    return {
        name: [cell.replace(".", "").replace(",", ".") if DECIMAL_COMMA.fullmatch(cell) else cell for cell in cells]
        for name, cells in columns.items()
    }


def instant(cell: str) -> float | None:
    """Read a date or time as seconds since 1970, one without zone as UTC: ISO, 2024/01/31, 2024-01 or 31.01.2024."""
    told = DAY_AND_MONTH.fullmatch(cell)
    if told and told[2] == ".":  # with points, the day comes first everywhere
        cell = _iso(told, day=1)
    cell = cell.replace("/", "-") if re.match(r"\d{4}/", cell) else cell
    cell = f"{cell}-01" if re.fullmatch(r"\d{4}-\d{2}", cell) else cell
    if not re.match(r"\d{4}-", cell):
        return None
    try:
        moment = datetime.fromisoformat(cell)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _iso(told: re.Match[str], day: int) -> str:
    """Write a date whose year comes last, and whose day is this group of the match, as 2024-01-31."""
    return f"{told[4]}-{told[4 - day]:>02}-{told[day]:>02}{told[5]}"


def _told_apart(cells: list[str]) -> list[str]:
    """Write dates such as 1/31/2024 as 2024-01-31, if the whole column leaves no doubt what is day and what month."""
    found = [DAY_AND_MONTH.fullmatch(cell) for cell in cells]
    largest = [max((int(told[place]) for told in found if told), default=0) for place in (1, 3)]
    if (largest[0] > 12) == (largest[1] > 12):
        return cells
    day = 1 if largest[0] > 12 else 3
    return [_iso(told, day) if told else cell for told, cell in zip(found, cells, strict=True)]


def _find_times(
    columns: dict[str, list[str]], lines: list[int], problems: list[str]
) -> tuple[str | None, NDArray[np.float64]]:
    for name, column in columns.items():
        cells = _told_apart(column)
        moments = [instant(cell) for cell in cells]
        wrong = [place for place, moment in enumerate(moments) if moment is None]
        if len(wrong) < len(cells) / 2:
            if wrong:
                shown = files.listed([f"{lines[place]} ({cells[place]!r})" for place in wrong])
                problems.append(
                    f"column {name}: not a date in line {shown}: write dates as 2024-01-31 or 2024-01-31 12:00"
                )
            return name, np.array([math.nan if moment is None else moment for moment in moments])
        dates = sum(DAY_AND_MONTH.fullmatch(cell) is not None for cell in cells) > len(cells) / 2
        if name.lower() in TIMES or dates:
            values = [_number(cell) for cell in cells]
            whole = [cell for cell in cells if re.fullmatch(r"[12]\d{3}", cell)]
            if name.lower() in YEARS and len(whole) == len(cells):
                return name, np.array([instant(f"{cell}-01") or 0.0 for cell in cells])
            if all(value is not None and math.isfinite(value) for value in values):
                seconds = np.array(values, np.float64)
                return name, seconds / 1000 if seconds.min() > 1e11 else seconds  # milliseconds since 1970
            problems.append(
                f"column {name}: {cells[0]!r} is not a date that has one meaning: write dates as 2024-01-31 or "
                f"2024-01-31 12:00"
            )
            return name, np.full(len(cells), math.nan)
    return None, np.empty(0)
