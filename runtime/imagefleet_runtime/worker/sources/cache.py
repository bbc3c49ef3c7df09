"""The node cache: folders of remote sources, fetched once for all workers of a node. See docs/sources.md."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imagefleet_runtime.worker.source import DigestCache, SourceError, digest_of, folder_digest, scan
from imagefleet_runtime.worker.sources.credentials import read_credentials
from imagefleet_runtime.worker.sources.download import PIECE_BYTES, Download, OnProgress
from imagefleet_runtime.worker.sources.entry import Entry, Marker, entries
from imagefleet_runtime.worker.sources.journal import Journal
from imagefleet_runtime.worker.sources.locks import FileLock
from imagefleet_runtime.worker.sources.place import FetchStoppedError, Place
from imagefleet_runtime.worker.sources.plan import Plan, make_plan
from imagefleet_runtime.worker.sources.remote import Remote, retrying
from imagefleet_runtime.worker.sources.room import make_room
from imagefleet_runtime.worker.sources.schemes import open_remote

# How often one that waits for another process's fetch looks how far it is.
LOOK_SECONDS = 0.25
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class _Fetching:
    place: Place
    fingerprint: str
    remote: Remote
    plan: Plan
    entry: Entry


class NodeCache:
    """``limit_bytes``: of all folders together (0: nine tenths of the volume). ``source_limit_bytes``: of one source.
    ``digests``: where the digests of fetched files are remembered, so that checking them again reads nothing.

    Folders that ``fetch`` returned are in use, and not deleted, until ``release``, or the end of this process.
    """

    def __init__(
        self,
        folder: Path,
        limit_bytes: int,
        source_limit_bytes: int,
        *,
        digests: DigestCache | None = None,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._source_limit_bytes = source_limit_bytes
        self._digests = digests or DigestCache()
        self._piece_bytes = piece_bytes
        self._fetched: Counter[Place] = Counter()
        self._holds: dict[Path, list[FileLock]] = {}
        self._holding = threading.Lock()

    def fetch(self, place: Place, on_progress: OnProgress, stop: threading.Event) -> Path:
        """The folder of ``place``, fetched where it must be, with ``place.digest``; blocks, so run it in a thread.

        It is held: ``release`` it once for each ``fetch``. A local folder is returned unseen.
        ``on_progress``: called with the bytes that are there and all bytes, from any thread, never two at once.
        ``stop``: set it to give up; what was fetched is kept for the next time.
        Raises SourceError, FetchStoppedError, and OSError where the disk fails.
        """
        if place.uri is None:
            return Path(place.path or "")
        with self._refusing_read_only():
            self._folder.mkdir(parents=True, exist_ok=True)
            credentials = read_credentials(place.credentials)
            fingerprint = credentials.fingerprint()
            known = self._known(place, fingerprint, on_progress)
            if known is not None:
                return known
            with contextlib.closing(open_remote(place.uri, credentials)) as remote:
                plan = retrying(lambda: make_plan(remote, place, self._source_limit_bytes), stop)
                entry = Entry(self._folder / plan.identity(place.uri, fingerprint))
                entry.folder.mkdir(exist_ok=True)
                fetching = _Fetching(place, fingerprint, remote, plan, entry)
                return self._obtain(fetching, on_progress, stop)

    def fetched_bytes(self, place: Place) -> int:
        """Bytes that this process has fetched for ``place`` so far: those that others fetched are not counted."""
        return self._fetched[place]

    def hold(self, path: Path) -> None:
        """One more user of a folder that is held already. Local folders need none."""
        entry = Entry(path.parent)
        with self._holding:
            if path in self._holds:
                lock = FileLock(entry.lock)
                lock.try_shared()  # always granted beside another shared one
                self._holds[path].append(lock)

    def release(self, path: Path) -> None:
        """One user less. The folder stays until room is needed."""
        with self._holding:
            locks = self._holds.get(path)
            if locks:
                locks.pop().close()
                if not locks:
                    del self._holds[path]

    def _known(self, place: Place, fingerprint: str, on_progress: OnProgress) -> Path | None:
        """A complete folder with the digest asked for: the source is not asked at all."""
        if place.digest is None:
            return None
        for entry in entries(self._folder):
            marker = entry.marker()
            if marker is None or (marker.uri, marker.fingerprint) != (place.uri, fingerprint):
                continue
            if marker.digest == place.digest:
                path = self._use(entry, place, on_progress)
                if path is not None:
                    return path
        return None

    def _obtain(self, fetching: _Fetching, on_progress: OnProgress, stop: threading.Event) -> Path:
        """Use the entry, fetch it, or wait for the one that fetches it."""
        entry = fetching.entry
        while True:
            path = self._use(entry, fetching.place, on_progress)
            if path is not None:
                return path
            with FileLock(entry.lock) as lock:
                mine = lock.try_exclusive()
                if mine and entry.marker() is None:
                    self._bring(fetching, on_progress, stop)
            if not mine:
                on_progress(entry.fetched_bytes(), fetching.plan.bytes)
                if stop.wait(LOOK_SECONDS):
                    raise FetchStoppedError

    def _use(self, entry: Entry, place: Place, on_progress: OnProgress) -> Path | None:
        """The files of a complete entry, from now on held; None where it is not complete, or no longer.

        Raises SourceError (DigestMismatch).
        """
        lock = FileLock(entry.lock)
        marker = entry.marker() if lock.try_shared() else None
        if marker is None or not self._is_intact(entry, marker):
            lock.close()
            if marker is not None:
                self._drop(entry)
            return None
        if place.digest not in (None, marker.digest):
            lock.close()
            found = marker.digest
            raise SourceError("DigestMismatch", f"the folder's digest is {found}, not {place.digest}", found)
        entry.touch()
        on_progress(marker.bytes, marker.bytes)
        with self._holding:
            self._holds.setdefault(entry.files, []).append(lock)
        return entry.files

    def _is_intact(self, entry: Entry, marker: Marker) -> bool:
        """Hashes what this process has not hashed yet: other processes can write here, and disks fail."""
        try:
            return folder_digest(scan(entry.files), self._digests) == marker.digest
        except SourceError:
            return False

    def _drop(self, entry: Entry) -> None:
        with FileLock(entry.lock) as lock:
            if not lock.try_exclusive():
                raise SourceError(
                    "DigestMismatch", f"{entry.files} was altered; it is fetched anew once no worker uses it"
                )
            entry.wipe()

    def _bring(self, fetching: _Fetching, on_progress: OnProgress, stop: threading.Event) -> None:
        entry, plan = fetching.entry, fetching.plan
        journal = self._reserve(entry, plan)
        download = Download(
            fetching.remote,
            plan.files,
            entry.partial,
            journal,
            on_progress,
            stop,
            piece_bytes=self._piece_bytes,
        )
        try:
            sha256 = download.run()
        except SourceError as error:
            if error.reason == "DigestMismatch":
                entry.wipe()
            raise
        finally:
            journal.close()
            self._fetched[fetching.place] += download.fetched_bytes
        digest = digest_of((file.name.encode(), sha256[file.name]) for file in plan.files)
        entry.publish(Marker(fetching.place.uri or "", fetching.fingerprint, digest, plan.bytes))
        for file in scan(entry.files):
            self._digests.remember(file, sha256[file.name.decode()])

    def _reserve(self, entry: Entry, plan: Plan) -> Journal:
        """Room for the fetch, and a journal, by which others see how much it will take."""
        with FileLock(self._folder / "lock") as lock:
            lock.wait_exclusive()
            there = entry.fetched_bytes()
            if not there:
                entry.wipe()
            make_room(self._folder, entry, plan.bytes, plan.bytes - there, self._limit_bytes)
            return Journal(entry.journal, plan.bytes)

    @contextlib.contextmanager
    def _refusing_read_only(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in READ_ONLY:
                raise
            raise SourceError(
                "FetchFailed",
                f"the node cache {self._folder} cannot be written by uid {os.getuid()}: {error.strerror}",
            ) from None
