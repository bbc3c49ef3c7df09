"""The files of a model on this node, or on their way to it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from imagefleet_runtime.worker.policy import AdapterPolicy, ModelPolicy
from imagefleet_runtime.worker.source import SourceError
from imagefleet_runtime.worker.sources import FetchStoppedError, NodeCache, Place
from imagefleet_runtime.worker.threads import in_thread

PIPELINE = ""  # its place among those of the adapters, whose names are never empty


class Files:
    """What ``entry`` names: local folders are there at once, remote ones are fetched in the background.

    ``changed`` is called, from the event loop, when all are there or one cannot be had. ``release`` them at the end.
    """

    def __init__(self, cache: NodeCache, entry: ModelPolicy, changed: Callable[[], None]) -> None:
        self._cache = cache
        self._changed = changed
        self._places = {PIPELINE: _place(entry)} | {it.name: _place(it) for it in entry.adapters}
        self._folders = {
            name: Path(place.path) for name, place in self._places.items() if place.path is not None
        }
        self._progress: dict[str, tuple[int, int]] = {}  # bytes, all bytes
        self._stop = threading.Event()
        self.started = time.monotonic()
        self.ended: float | None = self.started if self.ready else None
        self.error: SourceError | OSError | None = None
        self.fetched_bytes = 0  # by this process: what was there already is not counted
        self._task = None if self.ready else asyncio.create_task(self._fetch())

    @property
    def ready(self) -> bool:
        return len(self._folders) == len(self._places)

    @property
    def remote(self) -> bool:
        return any(place.uri is not None for place in self._places.values())

    @property
    def pipeline(self) -> Path:
        return self._folders[PIPELINE]

    @property
    def adapters(self) -> dict[str, Path]:
        return {name: folder for name, folder in self._folders.items() if name != PIPELINE}

    @property
    def there_bytes(self) -> int:
        """How much of ``total_bytes`` is there."""
        return sum(there for there, _ in list(self._progress.values()))

    @property
    def total_bytes(self) -> int | None:
        """Of all remote files that have been asked for; None until the first source has answered."""
        known = list(self._progress.values())
        return sum(total for _, total in known) if known else None

    def remaining_seconds(self, now: float) -> float | None:
        """Until all is there, at the mean speed so far. None: no opinion."""
        if self.ready:
            return 0.0
        there, total = self.there_bytes, self.total_bytes
        if total is None or there <= 0:
            return None
        return (total - there) * (now - self.started) / there

    def release(self) -> None:
        """Stop what is on its way, and let go of the rest."""
        self._stop.set()
        if self._task is None or self._task.done():
            self._let_go()

    def _let_go(self) -> None:
        for name, folder in self._folders.items():
            if self._places[name].uri is not None:
                self._cache.release(folder)

    async def _fetch(self) -> None:
        try:
            for name, place in self._places.items():
                if place.uri is not None:
                    before = self._cache.fetched_bytes(place)
                    fetch = partial(self._cache.fetch, place, partial(self._note, name), self._stop)
                    self._folders[name] = await in_thread(fetch)
                    self.fetched_bytes += self._cache.fetched_bytes(place) - before
        except (SourceError, OSError) as error:
            self.error = error
        except FetchStoppedError:
            pass
        self.ended = time.monotonic()
        if self._stop.is_set():
            self._let_go()
        else:
            self._changed()

    def _note(self, name: str, there: int, total: int) -> None:
        """Runs in any thread."""
        self._progress[name] = (there, total)


def _place(entry: ModelPolicy | AdapterPolicy) -> Place:
    return Place(
        path=entry.path,
        uri=entry.uri,
        credentials=entry.credentials,
        digest=entry.digest,
        adapter=isinstance(entry, AdapterPolicy),
    )
