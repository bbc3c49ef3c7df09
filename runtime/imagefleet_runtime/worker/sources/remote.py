"""The face that the kinds of remote sources share, and how their errors are told."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from imagefleet_runtime.worker.source import SourceError
from imagefleet_runtime.worker.sources.place import FetchStoppedError

# Attempts in a row that bring nothing before a fetch fails: with these delays about half a minute.
ATTEMPTS = 6
FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
# A listing that is longer is not that of a model. It also bounds what a hostile server can make a worker hold.
MAX_LISTED = 20_000

T = TypeVar("T")


class TransientError(Exception):
    """It may work the next time: a broken connection, a server that is busy. ``retry_after``: seconds, where told."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RangeIgnoredError(Exception):
    """The server sends whole files only."""


@dataclass(frozen=True)
class RemoteFile:
    name: str  # relative to the source's folder, as the server says: not yet to be trusted
    size: int  # bytes
    sha256: str | None  # hex, where the source tells it
    key: str  # how the source finds it
    version: str  # another one for another content


class Remote(Protocol):
    """A folder on a server. All methods may be called from several threads, and raise SourceError or TransientError."""

    def files(self) -> list[RemoteFile]:
        """All that there is, at most MAX_LISTED."""

    def open(self, file: RemoteFile, start: int, end: int) -> AbstractContextManager[Iterator[bytes]]:
        """The bytes of ``file`` from ``start``; may run on beyond ``end``. Raises RangeIgnoredError too."""

    def close(self) -> None: ...


def leads_upwards(uri: str) -> bool:
    return not {".", ".."}.isdisjoint(uri.split("/"))


def retrying(call: Callable[[], T], stop: threading.Event) -> T:
    """``call()``, tried again while its errors are transient. Raises SourceError (FetchFailed), FetchStoppedError."""
    patience = Patience(stop)
    while True:
        try:
            return call()
        except TransientError as error:
            patience.after(error)


class Patience:
    """Counts failures in a row, and waits after each: exponential back-off with full jitter."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._failures = 0

    def refill(self) -> None:
        """Something was achieved: count anew."""
        self._failures = 0

    def after(self, error: TransientError) -> None:
        """Wait, or raise SourceError (FetchFailed) after too many failures, FetchStoppedError once stopped."""
        self._failures += 1
        if self._failures >= ATTEMPTS:
            raise SourceError("FetchFailed", f"{error} ({self._failures} attempts)") from None
        if self._stop.wait(delay_seconds(self._failures, error.retry_after, random.random())):  # noqa: S311
            raise FetchStoppedError


def delay_seconds(failures: int, retry_after: float | None, jitter: float) -> float:
    """The wait after ``failures`` in a row, ``jitter`` in 0..1: half of FIRST_DELAY * 2**(failures - 1) and up to half
    more, at least what the server asked for, at most LONGEST_DELAY.

    Example: after 3 failures, jitter 0.5: 2 s * (0.5 + 0.25) = 1.5 s.
    """
    backoff = FIRST_DELAY_SECONDS * 2.0 ** (failures - 1) * (0.5 + 0.5 * jitter)
    return float(min(max(backoff, retry_after or 0.0), LONGEST_DELAY_SECONDS))
