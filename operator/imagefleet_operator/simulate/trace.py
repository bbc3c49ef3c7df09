"""Requests of the past, read from CSV.

A trace has a header and one line for each request: when it arrived, its model, and the seconds that it kept an
accelerator busy. Column names are found by themselves (``COLUMNS``) or named by the caller. Times are seconds, or ISO
8601 dates; a name that ends in ``.gz`` is decompressed.
"""

import csv
import gzip
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import TextIO

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "arrival": ("arrival", "timestamp", "time", "gmt_create"),
    "model": ("model", "checkpoint_model_version_id"),
    "seconds": ("seconds", "cost", "exec_time_seconds"),
}
"""For each field the header's names that are understood, best first."""


class TraceError(ValueError):
    """A trace that cannot be read; the message says where and how to mend it."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request: arrival in seconds from the start, its model, and its cost in GPU-seconds."""

    arrival: float
    model: str
    seconds: float


Trace = tuple[Request, ...]
"""Requests in order of arrival."""


def read_trace(path: Path, columns: Mapping[str, str] | None = None) -> Trace:
    """Read a CSV; ``columns`` names those of its header that are not found by themselves, by field.

    Arrivals are moved so that the first is at its time of day (UTC) where they are dates, else as they are.
    Raises TraceError where the file cannot be read or a value is no finite number of at least 0.
    """
    try:
        with _open(path) as file:
            return _sorted(_rows(file, columns or {}))
    except (OSError, UnicodeDecodeError, csv.Error, EOFError) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None


def faster(trace: Trace, times: float) -> Trace:
    """The same requests, arriving ``times`` as fast; costs as they are. Example: at 10 times, 60 s become 6 s."""
    return tuple(replace(r, arrival=r.arrival / times) for r in trace)


def as_many(trace: Trace, times: int, seed: int, shift: float = 1_800.0) -> Trace:
    """``times`` as many callers with the same habits: copies, each moved by up to ``shift`` seconds at random.

    The other way to have ten times the rate: days stay days, and bursts of different callers do not coincide.
    """
    random = Random(seed)  # noqa: S311 - no secret
    moved = (
        replace(r, arrival=r.arrival + shift + by)
        for by in [random.uniform(-shift, shift) for _ in range(times)]
        for r in trace
    )
    return tuple(sorted(moved, key=lambda r: r.arrival))


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _rows(file: Iterable[str], named: Mapping[str, str]) -> list[Request]:
    reader = csv.DictReader(file)
    header = reader.fieldnames or ()
    column = {field: _column(field, names, header, named) for field, names in COLUMNS.items()}
    return [
        Request(
            _time(row[column["arrival"]], reader.line_num),
            row[column["model"]] or "",
            _number(row[column["seconds"]], reader.line_num),
        )
        for row in reader
    ]


def _column(field: str, names: Sequence[str], header: Sequence[str], named: Mapping[str, str]) -> str:
    wanted = (named[field],) if field in named else names
    found = next((name for name in wanted if name in header), None)
    if found is None:
        raise TraceError(f"no column for '{field}': looked for {', '.join(wanted)} in {', '.join(header)}")
    return found


def _number(text: str | None, line: int) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise TraceError(f"line {line}: '{text}' is no number of at least 0")
    return value


def _time(text: str | None, line: int) -> float:
    try:
        return datetime.fromisoformat(text or "").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return _number(text, line)


def _sorted(requests: list[Request]) -> Trace:
    if not requests:
        raise TraceError("holds no request")
    requests.sort(key=lambda r: r.arrival)
    first = requests[0].arrival
    # A date's midnight keeps the time of day, which a daily pattern needs.
    start = first - first % 86_400 if first > 86_400 * 365 else 0.0
    return tuple(replace(r, arrival=r.arrival - start) for r in requests)
