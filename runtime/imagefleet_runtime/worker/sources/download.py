"""Brings the files of a remote source into a folder: several streams at a time, each going on where it broke."""

from __future__ import annotations

import errno
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import BinaryIO

from imagefleet_runtime.worker.source import SourceError
from imagefleet_runtime.worker.sources.journal import Journal, Span, merged, missing
from imagefleet_runtime.worker.sources.place import FetchStoppedError
from imagefleet_runtime.worker.sources.remote import (
    Patience,
    RangeIgnoredError,
    Remote,
    RemoteFile,
    TransientError,
)

STREAMS = 8
# Also what a killed process loses of each stream.
PIECE_BYTES = 32 * 1024 * 1024
# A stream that brings less in a window counts as broken: a server that drips would else hold a fetch for weeks.
WINDOW_SECONDS = 30.0
LEAST_BYTES_PER_WINDOW = 64 * 1024
LOOK_AT_STOP_SECONDS = 0.25
FULL = (errno.ENOSPC, errno.EDQUOT)

OnProgress = Callable[[int, int], None]


class Download:
    """``files`` of ``remote`` into ``folder``, which holds what ``journal`` says of them already.

    ``on_progress``: called, from several threads but never two at once, with the bytes that are there and all bytes.
    ``stop``: ends it within READ_SECONDS; what was written stays in the journal.
    """

    def __init__(
        self,
        remote: Remote,
        files: Sequence[RemoteFile],
        folder: Path,
        journal: Journal,
        on_progress: OnProgress,
        stop: threading.Event,
        *,
        piece_bytes: int = PIECE_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._remote = remote
        self._files = files
        self._folder = folder
        self._journal = journal
        self._on_progress = on_progress
        self._stop = stop
        self._piece_bytes = piece_bytes
        self._clock = clock
        self._halt = threading.Event()  # one stream failed, or all are to stop
        self._counting = threading.Lock()
        self._whole = [threading.Lock() for _ in files]
        self._total = sum(file.size for file in files)
        self._done = [
            sum(span.end - span.start for span in merged(journal.spans, number))
            for number in range(len(files))
        ]
        self._sha256: dict[str, str] = {}
        self.fetched_bytes = 0  # by this process

    def run(self) -> dict[str, str]:
        """SHA-256 (hex) of each file by name, once all are there.

        Raises SourceError (DigestMismatch, CacheFull, and as the source's), FetchStoppedError, OSError.
        """
        try:
            pieces = [piece for number in range(len(self._files)) for piece in self._prepare(number)]
            self._count(0, 0)
            with ThreadPoolExecutor(STREAMS, thread_name_prefix="fetch") as pool:
                self._await(pool, [pool.submit(self._bring, piece) for piece in pieces])
        except OSError as error:
            if error.errno in FULL:
                raise SourceError("CacheFull", f"the volume of {self._folder} is full") from None
            raise
        return self._sha256

    def _await(self, pool: ThreadPoolExecutor, tasks: list[Future[None]]) -> None:
        waiting = set(tasks)
        while waiting and not self._halt.is_set():
            finished, waiting = wait(waiting, LOOK_AT_STOP_SECONDS, FIRST_EXCEPTION)
            if self._stop.is_set() or any(task.exception() for task in finished):
                self._halt.set()
        pool.shutdown(cancel_futures=True)
        if self._stop.is_set():
            raise FetchStoppedError
        # The first failure in order of time: the others were halted by it.
        errors = [task.exception() for task in tasks if not task.cancelled()]
        for error in sorted(filter(None, errors), key=lambda error: isinstance(error, FetchStoppedError)):
            raise error

    def _prepare(self, number: int) -> list[Span]:
        """Make the file; the pieces that it lacks, or one empty piece."""
        file = self._files[number]
        path = self._folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            stream.truncate(file.size)  # sparse: pieces are written in any order
        return missing(self._journal.spans, number, file.size, self._piece_bytes) or [Span(number, 0, 0)]

    def _bring(self, piece: Span) -> None:
        """Fetch ``piece``; the thread that brings the last one of a file checks the file."""
        try:
            complete = self._fetch(piece)
        except RangeIgnoredError:
            complete = self._fetch_whole(piece.file)
        if complete:
            self._check(piece.file)

    def _fetch(self, piece: Span) -> bool:
        """Whether the file is complete now."""
        patience = Patience(self._halt)
        complete = self._count(piece.file, 0) and piece.start == piece.end
        position = piece.start
        try:
            while position < piece.end:
                began = position
                try:
                    for count in self._copy(piece.file, position, piece.end):
                        position += count
                        complete = self._count(piece.file, count)
                except TransientError as error:
                    if position - began >= LEAST_BYTES_PER_WINDOW:
                        patience.refill()
                    patience.after(error)
        finally:
            if position > piece.start:
                self._journal.add(Span(piece.file, piece.start, position))
        return complete

    def _fetch_whole(self, number: int) -> bool:
        """From the first byte to the last, for servers that know no ranges; the other pieces wait and find it done."""
        size = self._files[number].size
        patience = Patience(self._halt)
        with self._whole[number]:
            if self._done[number] == size:
                return False
            while True:
                self._count(number, -self._done[number])
                try:
                    for count in self._copy(number, 0, size):
                        self._count(number, count)
                    break
                except TransientError as error:
                    patience.after(error)
            self._journal.add(Span(number, 0, size))
            return True

    def _copy(self, number: int, start: int, end: int) -> Iterator[int]:
        """Write bytes ``start`` to ``end``; yields how many came each time.

        Raises TransientError where they end early, RangeIgnoredError, FetchStoppedError, SourceError.
        """
        file = self._files[number]
        position = start
        pace = _Pace(self._clock)
        with (
            (self._folder / file.name).open("r+b", buffering=0) as target,
            self._remote.open(file, start, end) as chunks,
        ):
            target.seek(start)
            for chunk in chunks:
                if self._halt.is_set():
                    raise FetchStoppedError
                if position == end:  # a server that sends more than was asked for
                    return
                taken = memoryview(chunk)[: end - position]
                _write(target, taken)
                position += len(taken)
                yield len(taken)
                pace.check(file.name, len(taken))
        if position < end:
            raise TransientError(f"{file.name} broke off after {position} of {file.size} bytes")

    def _count(self, number: int, count: int) -> bool:
        """Note ``count`` more bytes of a file; whether it is complete."""
        with self._counting:
            self.fetched_bytes += max(count, 0)
            self._done[number] += count
            self._on_progress(sum(self._done), self._total)
            return self._done[number] == self._files[number].size

    def _check(self, number: int) -> None:
        """Hash a complete file. Raises SourceError (DigestMismatch)."""
        file = self._files[number]
        with (self._folder / file.name).open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if file.sha256 not in (None, found):
            raise SourceError(
                "DigestMismatch", f"{file.name} has SHA-256 {found}, its source says {file.sha256}"
            )
        self._sha256[file.name] = found


class _Pace:
    """Cuts off a stream that all but stands still. A fresh one for each connection."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._bytes = 0

    def check(self, name: str, count: int) -> None:
        """Note ``count`` bytes. Raises TransientError once per window that brought too little."""
        self._bytes += count
        now = self._clock()
        if now - self._since < WINDOW_SECONDS:
            return
        if self._bytes < LEAST_BYTES_PER_WINDOW:
            raise TransientError(f"{name}: {self._bytes} bytes in {now - self._since:.0f} s")
        self._since, self._bytes = now, 0


def _write(target: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[target.write(data) :]
