"""Many series with what is known of their future, from CSV, JSON lines, pandas frames and gluonts. No torch here."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from condiff.data import files, kinds, tables
from condiff.data.frequency import DAY, MONTH, Frequency, moment
from condiff.data.panel import Panel, panel
from condiff.data.tables import MISSING, Table

TARGETS = ("target", "value", "y")
"""Names of the column to forecast in a long table; without one of them every numeric column is a series."""

MOST_CLASSES = 20
"""A column of texts that changes with time becomes a column of 0 and 1 a text; more texts than these are too many."""


@final
@dataclass(frozen=True)
class Track:
    """One series, and all that may be seen when its next values are asked for.

    Args:
        name: Name of the item, and of the column where there are several.
        seconds: Times in seconds since 1970, float64 (T + F,): those of the T values and F further ones.
        values: float64 (T,), NaN where missing.
        known: What is known in advance, a column each, float64 (T + F, D).
        classes: What never changes, by name: the region of a shop, the kind of a product.
    """

    name: str
    seconds: NDArray[np.float64]
    values: NDArray[np.float64]
    known: NDArray[np.float64]
    classes: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Count the values T."""
        return len(self.values)

    def until(self, at: int, horizon: int) -> Track:
        """Return what may be seen before step `at` by who is asked for the next `horizon` steps."""
        stop = at + horizon
        return replace(self, seconds=self.seconds[:stop], values=self.values[:at], known=self.known[:stop])


@final
@dataclass(frozen=True)
class Tracks:
    """All series of a source, of one frequency.

    Args:
        name: Name of the source.
        source: Where it came from, to read it again.
        tracks: The series.
        frequency: Their step.
        known: Names of the columns known in advance.
        remarks: What is odd but can be used.
    """

    name: str
    source: str
    tracks: tuple[Track, ...]
    frequency: Frequency
    known: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def missing(self) -> int:
        """Values that are missing between the first and the last of every series."""
        return int(sum(np.isnan(track.values).sum() for track in self.tracks))

    def ahead(self, horizon: int) -> Tracks:
        """Extend every series' times to `horizon` steps after its last value.

        Raises:
            ValueError: If a column known in advance ends before.
        """
        return replace(self, tracks=tuple(self._ahead(track, horizon) for track in self.tracks))

    def _ahead(self, track: Track, horizon: int) -> Track:
        stop = len(track) + horizon
        more = stop - len(track.seconds)
        if more <= 0:
            return track.until(len(track), horizon)
        if self.frequency.seconds == 0:
            raise ValueError(
                f"{self.source}: {track.name!r} has one value, so nobody knows when the next one comes; add rows"
            )
        if self.known:
            raise ValueError(
                f"{self.source}: series {track.name!r}: {self.known[0]} is known until {moment(track.seconds[-1])}, "
                f"but {horizon} steps need it {more} step(s) longer; add rows with an empty target"
            )
        times = np.concatenate([track.seconds, self.frequency.after(float(track.seconds[-1]), more)])
        return replace(track, seconds=times, known=np.empty((stop, 0)))


def read_tracks(path: str | os.PathLike[str], *, known: Sequence[str] = ()) -> Tracks:
    """Read a CSV file, wide or long, a file of JSON lines as gluonts writes them, or a bundled set of series.

    A wide table has one series a column. A long one has a column that names the item (`item_id`) and one of values
    (`target`). Rows at the end whose target is empty only tell what is known in advance. Times that are missing from
    the grid are missing values; so are empty cells.

    Args:
        path: The file, or "traffic".
        known: Columns whose future is known when a forecast is made: prices, holidays, weather forecasts. Numbers are
            used as they are; a text that never changes within a series is a class of it, one that does is 0 or 1 for
            each of its texts.

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: If the file cannot be used; one line says what to mend.
    """
    if kinds.is_bundled(path):
        return _bundled(str(path), known)
    place = files.existing(path)
    if files.ending(place) in (".jsonl", ".json"):
        return _json_lines(place, known)
    if place.is_dir() or files.ending(place) not in files.TABLES | {".tsv"}:
        raise ValueError(f"{place}: expected a .csv, .tsv, .json or .jsonl file of series (also .gz or .xz)")
    return from_table(tables.parse(place), known=known, name=place.name)


def from_table(table: Table, *, known: Sequence[str] = (), name: str = "") -> Tracks:
    """Read series from a parsed table; arguments and errors as for `read_tracks`."""
    where = str(table.path)
    _stop(where, table.problems)
    if table.times is None:
        raise ValueError(f"{where}: no column of times; name one timestamp, with dates such as 2024-01-31 12:00")
    remarks: list[str] = []
    columns = [*table.numbers, *table.names]
    # A text whose future is known does not tell series apart, unless it is named so.
    names = {name: cells for name, cells in table.names.items() if name not in known or name.lower() in tables.ITEMS}
    texts, table = table.names, replace(table, names=names)
    for asked in known:
        if asked not in columns:
            near = difflib.get_close_matches(asked, columns, 1, 0.6)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"{where}: no column {asked!r} to know in advance{hint} There are {', '.join(columns)}")
        if asked == table.item:
            raise ValueError(f"{where}: {asked} names the series, so it is no condition; leave it out")
    still, changing = _texts(table, texts, known, where)
    targets = [column for column in table.numbers if column not in known]
    named = [column for column in targets if column.lower() in TARGETS]
    if len(named) == 1 and (table.item or len(targets) == 1):
        targets = named
    unused = [column for column in columns if column not in (*targets, *known, table.item)]
    if unused:
        remarks.append(
            f"not used: {files.listed(unused)}; if the future of a column is known, name it with --condition"
        )
    if not targets:
        raise ValueError(f"{where}: every numeric column is a condition; leave one to forecast")
    advance = [column for column in known if column in table.numbers]
    numbers = {column: table.numbers[column] for column in (*targets, *advance)}
    numbers.update(changing)
    found = panel(replace(table, numbers=numbers))
    ours = tuple(p for p in found.problems if not any(f"column {c} has no value" in p for c in targets))
    _stop(where, tuple(_hint(problem, table) for problem in ours))
    columns_known = (*advance, *changing)
    tracks = []
    for item in found.items:
        for target in targets:
            label = "/".join(part for part in (item.name, target if len(targets) > 1 or not table.item else "") if part)
            places = [found.channels.index(column) for column in columns_known]
            values = item.values[:, found.channels.index(target)]
            track = _trimmed(Track(label, item.seconds, values, item.values[:, places], still.get(item.name, {})))
            if track is None:
                remarks.append(f"series {label!r} has no value and is left out")
            else:
                tracks.append(track)
    if not tracks:
        raise ValueError(f"{where}: no series has a value; fill column {targets[0]}")
    return Tracks(name, where, tuple(tracks), found.frequency, columns_known, (*remarks, *_remarks(found)))


def from_frame(frame: Any, *, known: Sequence[str] = (), name: str = "frame") -> Tracks:  # noqa: ANN401 - pandas is optional
    """Read series from a pandas frame, wide or long; times are its index or a column. Otherwise as `read_tracks`.

    Raises:
        ValueError: If it cannot be used; one line says what to mend.
    """
    if getattr(frame.index, "nlevels", 1) > 1:  # item and time
        frame = frame.reset_index()
    if getattr(getattr(frame, "columns", None), "nlevels", 1) > 1:
        raise ValueError(f"{name}: columns have several levels; join their names, such as shop/apples")
    timed = type(frame.index).__name__ in ("DatetimeIndex", "PeriodIndex")
    if type(frame.index).__name__ == "PeriodIndex":
        frame = frame.set_axis(frame.index.to_timestamp(), axis=0)
    text = frame.to_csv(index=timed, index_label="timestamp" if timed else None)
    return from_table(tables.parse_text(text, Path(name)), known=known, name=name)


def from_entries(
    entries: Iterable[Mapping[str, Any]], *, freq: str, known: Sequence[str] = (), name: str = "entries"
) -> Tracks:
    """Read series from entries as gluonts has them: a gluonts data set, or parsed JSON lines.

    Args:
        entries: Each with "start" and "target", and perhaps "item_id", "feat_dynamic_real" (known in advance, a row
            each, as long as the target or longer) and "feat_static_cat".
        freq: Frequency in pandas' spelling: "h", "30min", "D", "B", "W", "MS", "M", "Q", ...
        known: Names for the rows of "feat_dynamic_real"; they are used only if they are named here. "*" names all.
        name: Name of the source.

    Raises:
        ValueError: If an entry cannot be used; one line says which and what to mend.
    """
    frequency = _pandas_frequency(freq, name)
    tracks, remarks = [], []
    taken = tuple(known)
    for number, entry in enumerate(entries):
        label = str(entry.get("item_id", number))
        where = f"{name}: entry {label}"
        if "start" not in entry or "target" not in entry:
            raise ValueError(
                f"{where} has no {'start' if 'start' not in entry else 'target'}; gluonts entries have both"
            )
        start = _start(entry["start"], where)
        values = _floats(entry["target"], where)
        if values.ndim != 1:
            raise ValueError(f"{where} has a target of shape {values.shape}; give series of one channel, one an entry")
        rows = entry.get("feat_dynamic_real")
        rows = np.empty((0, len(values))) if rows is None else np.atleast_2d(_floats(rows, where))
        if taken == ("*",):
            taken = tuple(f"feature{k}" for k in range(len(rows)))
        if taken and len(rows) != len(taken):
            raise ValueError(f"{where} has {len(rows)} row(s) of feat_dynamic_real, but {len(taken)} are named")
        if len(rows) and rows.shape[1] < len(values):
            raise ValueError(f"{where} has {len(values)} values, but feat_dynamic_real has {rows.shape[1]} columns")
        if len(rows) and not taken:
            remarks.append("feat_dynamic_real is not used: name its rows to know them in advance")
        length = max(rows.shape[1] if taken else 0, len(values))
        seconds = np.concatenate([[start], frequency.after(start, length - 1)])
        classes = {f"static{k}": f"{float(code):g}" for k, code in enumerate(entry.get("feat_static_cat", ()))}
        unread = [field for field in ("feat_dynamic_cat", "feat_static_real") if entry.get(field) is not None]
        remarks += [f"{field} is not used: pass it as a row of feat_dynamic_real" for field in unread]
        features = rows[: len(taken)].T if taken else np.empty((length, 0))
        track = _trimmed(Track(label, seconds, values, features, classes))
        if track is None:
            remarks.append(f"series {label!r} has no value and is left out")
        else:
            tracks.append(track)
    if not tracks:
        raise ValueError(f"{name}: no entry has a value; give at least one series")
    return Tracks(name, name, tuple(tracks), frequency, taken, tuple(dict.fromkeys(remarks)))


def from_gluonts(dataset: Any, *, known: Sequence[str] = (), name: str = "") -> Tracks:  # noqa: ANN401 - gluonts is optional
    """Read a gluonts data set: `get_dataset(...)`'s training part, a `PandasDataset`, a `ListDataset`.

    Args:
        dataset: The data set, or what `get_dataset` returns.
        known: As for `from_entries`.
        name: Name of the source.

    Raises:
        ValueError: If it cannot be used, or does not tell its frequency.
    """
    whole = dataset
    dataset = getattr(dataset, "train", dataset)
    entries = list(dataset)
    freq = getattr(getattr(whole, "metadata", None), "freq", None) or getattr(dataset, "freq", None)
    if freq is None and entries:
        freq = getattr(entries[0].get("start"), "freqstr", None)
    if freq is None:
        raise ValueError("this gluonts data set does not tell its frequency; use from_entries(entries, freq=...)")
    return from_entries(entries, freq=str(freq), known=known, name=name or "gluonts")


def _json_lines(place: Path, known: Sequence[str]) -> Tracks:
    entries = []
    for number, line in enumerate(files.text(place).split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place}: line {number} is no JSON ({error.msg}); correct or remove it") from None
        if not isinstance(entry, dict):
            raise ValueError(f'{place}: line {number} is no object; write {{"start": "2024-01-01", "target": [...]}}')
        entries.append(entry)
    told = next((entry["freq"] for entry in entries if "freq" in entry), None)
    for folder in (place.parent, place.parent.parent):
        metadata = folder / "metadata.json"
        if told is None and metadata.is_file():
            told = json.loads(metadata.read_text()).get("freq")
    if told is None:
        raise ValueError(
            f"{place}: neither its lines nor a metadata.json beside it tell the frequency; "
            'add "freq": "h" to every line'
        )
    return replace(from_entries(entries, freq=str(told), known=known, name=str(place)), name=place.name)


def _bundled(name: str, known: Sequence[str]) -> Tracks:
    if name != "traffic":
        raise ValueError(f"{name} holds {kinds.BUNDLED[name]}; the bundled set of series is traffic")
    from condiff.data.hours import hours

    item = hours()
    if not set(known) <= {"temperature"}:
        raise ValueError(f"traffic: no column {known[0]!r} to know in advance; there is temperature")
    track = Track("traffic", item.seconds, item.values[:, 0], item.values[:, 1 : 1 + len(known)])
    return Tracks("traffic", "traffic", (track,), Frequency(3600.0), tuple(known))


def _texts(
    table: Table, texts: Mapping[str, Sequence[str]], known: Sequence[str], where: str
) -> tuple[dict[str, dict[str, str]], dict[str, NDArray[np.float64]]]:
    """Split named columns of texts: what never changes within an item, and 0-1 columns of what does."""
    keys = table.names[table.item] if table.item else ("",) * table.num_rows
    still: dict[str, dict[str, str]] = {}
    changing: dict[str, NDArray[np.float64]] = {}
    for column in (name for name in known if name in texts):
        cells = ["" if cell.lower() in MISSING else cell for cell in texts[column]]
        seen: dict[str, set[str]] = {}
        for key, cell in zip(keys, cells, strict=True):
            seen.setdefault(key, set()).add(cell)
        if table.item and all(len(found - {""}) == 1 for found in seen.values()):
            for key, found in seen.items():
                still.setdefault(key, {})[column] = next(iter(found - {""}))
            continue
        words = sorted(set(cells) - {""})
        if len(words) > MOST_CLASSES:
            raise ValueError(
                f"{where}: column {column} has {len(words)} different texts, more than {MOST_CLASSES}; group them or "
                "leave it out"
            )
        for text in words:
            changing[f"{column}={text}"] = np.array([float(cell == text) if cell else np.nan for cell in cells])
    return still, changing


def _trimmed(track: Track) -> Track | None:
    """Cut off what is missing before the first value, and take what is missing after the last as the future."""
    there = np.flatnonzero(~np.isnan(track.values))
    if not len(there):
        return None
    first, stop = int(there[0]), int(there[-1]) + 1
    told = np.flatnonzero(np.isfinite(track.known).all(1)) if track.known.shape[1] else there
    end = max(stop, int(told[-1]) + 1 if len(told) else 0)  # rows at the end where not all is known tell nothing
    return replace(
        track, seconds=track.seconds[first:end], values=track.values[first:stop], known=track.known[first:end]
    )


def _remarks(found: Panel) -> list[str]:
    return [remark for remark in found.remarks if "missing from the grid" not in remark]


def _hint(problem: str, table: Table) -> str:
    """Say what times that appear more than once may mean in a table whose items have no name."""
    if "appear more than once" not in problem or table.item or "local clocks" in problem:
        return problem
    whole = [
        name
        for name, cells in table.numbers.items()
        if name.lower() not in TARGETS and np.isfinite(cells).all() and (cells == np.rint(cells)).all()
    ]
    whole = whole if len(table.numbers) > 1 else []
    return f"{problem}; if a column tells series apart, call it item_id" + (f" ({whole[0]}?)" if whole else "")


def _stop(where: str, problems: Sequence[str]) -> None:
    if problems:
        more = f" (and {len(problems) - 1} more problem(s): run condiff doctor {where})" if len(problems) > 1 else ""
        raise ValueError(f"{where}: {problems[0]}{more}")


def _floats(values: Any, where: str) -> NDArray[np.float64]:  # noqa: ANN401 - a list or an array
    try:
        return np.array(
            [_floats(row, where) if isinstance(row, (list, tuple)) else _float(row) for row in values]
            if isinstance(values, (list, tuple))
            else values,
            np.float64,
        )
    except (TypeError, ValueError):
        raise ValueError(f"{where} holds something that is no number; write numbers, and null where missing") from None


def _float(value: Any) -> float:  # noqa: ANN401 - a JSON value
    return float("nan") if value is None or (isinstance(value, str) and value.lower() in MISSING) else float(value)


def _start(start: Any, where: str) -> float:  # noqa: ANN401 - text, or a pandas time
    if hasattr(start, "to_timestamp"):
        start = start.to_timestamp()
    seconds = tables.instant(str(start))
    if seconds is None:
        raise ValueError(f"{where} starts at {str(start)!r}, which is no date; write 2024-01-31 or 2024-01-31 12:00")
    return seconds


PANDAS = {
    "S": Frequency(1.0), "T": Frequency(60.0), "MIN": Frequency(60.0), "H": Frequency(3600.0), "D": Frequency(DAY),
    "B": Frequency(1.4 * DAY, workdays=True), "W": Frequency(7 * DAY),
    "M": Frequency(MONTH, 1), "MS": Frequency(MONTH, 1),
    "ME": Frequency(MONTH, 1, ends=True),
    "Q": Frequency(3 * MONTH, 3), "QS": Frequency(3 * MONTH, 3),
    "QE": Frequency(3 * MONTH, 3, ends=True),
    "A": Frequency(12 * MONTH, 12), "Y": Frequency(12 * MONTH, 12),
    "YS": Frequency(12 * MONTH, 12), "YE": Frequency(12 * MONTH, 12, ends=True),
}  # fmt: skip
"""Frequencies by their letters in pandas; a count may come before, an anchor such as -SUN after."""


def _pandas_frequency(text: str, name: str) -> Frequency:
    letters = text.partition("-")[0].lstrip("0123456789")
    count = int(text[: len(text.partition("-")[0]) - len(letters)] or 1)
    found = PANDAS.get(letters.upper())
    if found is None or (count > 1 and found.workdays):
        raise ValueError(f"{name}: frequency {text!r} is not known; give one such as h, 30min, D, B, W, MS, QS or YS")
    return replace(found, seconds=found.seconds * count, months=found.months * count)
