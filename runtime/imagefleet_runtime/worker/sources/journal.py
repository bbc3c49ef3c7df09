"""What of a fetch is on disk already: a file beside it, from which the next process goes on."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LINE = re.compile(r"(\d+) (\d+) (\d+)\n")
# Written bytes that had not reached the disk are lost with the machine's memory. One that was booted since, or
# another one, does not believe the journal.
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Span:
    """Bytes ``start`` to ``end`` (exclusive) of the fetch's file number ``file``."""

    file: int
    start: int
    end: int


class Journal:
    """One line for each span that was written, after a line that says of which fetch and how large it is. May be added
    to from several threads."""

    def __init__(self, path: Path, total_bytes: int) -> None:
        """Go on with the journal at ``path``, or begin one. Raises OSError."""
        self.spans = read_spans(path)
        if not self.spans:
            header = {"boot": BOOT_ID.read_text().strip(), "bytes": total_bytes}
            path.write_text(json.dumps(header) + "\n")
        self._stream = path.open(
            "a", buffering=1
        )  # a line at once: also what a killed process wrote is there
        self._stream.write("\n")  # the last line may be without an end, and would run into the next one
        self._lock = threading.Lock()

    def add(self, span: Span) -> None:
        with self._lock:
            self._stream.write(f"{span.file} {span.start} {span.end}\n")

    def close(self) -> None:
        self._stream.close()


def read_total(path: Path) -> int:
    """Bytes of the whole fetch, 0 where there is none. Raises OSError."""
    try:
        with path.open() as stream:
            return int(json.loads(stream.readline())["bytes"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0


def read_spans(path: Path) -> list[Span]:
    """What was written since the machine was booted. A line that a kill cut short counts for nothing.

    Raises OSError.
    """
    try:
        with path.open() as stream:
            if json.loads(stream.readline())["boot"] != BOOT_ID.read_text().strip():
                return []
            matches = (LINE.fullmatch(line) for line in stream)
            return [Span(*map(int, match.groups())) for match in matches if match]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []


def merged(spans: Iterable[Span], file: int) -> list[Span]:
    """Those of ``file`` in order, with what touches or overlaps put together."""
    found: list[Span] = []
    for span in sorted((span for span in spans if span.file == file), key=lambda span: span.start):
        if found and span.start <= found[-1].end:
            found[-1] = Span(file, found[-1].start, max(found[-1].end, span.end))
        else:
            found.append(span)
    return found


def missing(spans: Iterable[Span], file: int, size: int, piece_bytes: int) -> list[Span]:
    """What ``spans`` lack of ``file``, in pieces of at most ``piece_bytes``.

    Example: of 10 bytes 4 to 6 are there: 0 to 4 and 6 to 10 lack; in pieces of 3: 0-3, 3-4, 6-9, 9-10.
    """
    gaps = []
    position = 0
    for span in [*merged(spans, file), Span(file, size, size)]:
        gaps += [
            Span(file, start, min(start + piece_bytes, span.start))
            for start in range(position, span.start, piece_bytes)
        ]
        position = span.end
    return gaps
