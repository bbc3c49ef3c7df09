"""One folder of the node cache.

KEY/lock        held shared by each process that uses the files, exclusively by the one that fetches or deletes them
KEY/journal     while it is being fetched: how large it will be, and what is there already
KEY/partial/    while it is being fetched: the files
KEY/files/      complete: the files
KEY/complete    complete: what it is (JSON); written last. Its modification time is the last use
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from imagefleet_runtime.worker.sources import journal


@dataclass(frozen=True)
class Marker:
    uri: str
    fingerprint: str  # of the credentials that it was fetched with: who has others does not get it
    digest: str
    bytes: int


@dataclass(frozen=True)
class Entry:
    folder: Path

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    @property
    def partial(self) -> Path:
        return self.folder / "partial"

    @property
    def files(self) -> Path:
        return self.folder / "files"

    @property
    def complete(self) -> Path:
        return self.folder / "complete"

    def marker(self) -> Marker | None:
        """None where the entry is not complete. Raises OSError."""
        try:
            return Marker(**json.loads(self.complete.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def reserved_bytes(self) -> int:
        """What it takes, or will once it is fetched."""
        marker = self.marker()
        return journal.read_total(self.journal) if marker is None else marker.bytes

    def fetched_bytes(self) -> int:
        """How much of a fetch is there: what streams have begun is missing."""
        return sum(span.end - span.start for span in journal.read_spans(self.journal))

    def last_used(self) -> float:
        """Seconds since the epoch; 0 for what was never of use."""
        for file in (self.complete, self.journal):
            with contextlib.suppress(FileNotFoundError):
                return file.stat().st_mtime
        return 0.0

    def touch(self) -> None:
        """It is being used. A cache that cannot be written evicts nothing either."""
        with contextlib.suppress(OSError):
            os.utime(self.complete)

    def publish(self, marker: Marker) -> None:
        """Make the fetched files the entry's. A crash at any point leaves an entry that is complete, or not."""
        self.partial.rename(self.files)
        draft = self.folder / "complete.new"
        with draft.open("w") as stream:
            json.dump(asdict(marker), stream)
            stream.flush()
            os.fsync(stream.fileno())
        draft.rename(self.complete)
        self.journal.unlink()

    def wipe(self) -> None:
        """Delete all but the lock, the marker first. For the holder of the exclusive lock."""
        self.complete.unlink(missing_ok=True)
        self.journal.unlink(missing_ok=True)
        for folder in (self.files, self.partial):
            if folder.exists():
                shutil.rmtree(folder)


def entries(cache: Path) -> list[Entry]:
    """All entries of ``cache``. Raises OSError."""
    return [Entry(folder) for folder in cache.iterdir() if len(folder.name) == 64 and folder.is_dir()]
