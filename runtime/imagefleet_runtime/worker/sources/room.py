"""Room in the node cache: the least recently used entries make way for a new one, but none that is in use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from imagefleet_runtime.worker.source import SourceError
from imagefleet_runtime.worker.sources.entry import Entry, entries
from imagefleet_runtime.worker.sources.locks import FileLock


@dataclass(frozen=True)
class Room:
    """Bytes. ``limit``: what the cache may take. ``free``: what it may take more of its volume; may be negative."""

    limit: int
    free: int


def measure(cache: Path, limit_bytes: int) -> Room:
    """``limit_bytes`` 0: nine tenths of the volume, of which a tenth stays free too, whoever filled it: a node whose
    disk is full evicts its pods. Raises OSError."""
    volume = os.statvfs(cache)
    size, free = volume.f_blocks * volume.f_frsize, volume.f_bavail * volume.f_frsize
    return Room(limit_bytes, free) if limit_bytes else Room(size * 9 // 10, free - size // 10)


def make_room(cache: Path, entry: Entry, total: int, missing: int, limit_bytes: int) -> None:
    """Delete what is needed so that ``entry`` can grow by ``missing`` to ``total`` bytes, or nothing at all.

    For the holder of the cache's lock. Raises SourceError (CacheFull), OSError.
    """
    room = measure(cache, limit_bytes)
    if total > room.limit:
        raise SourceError(
            "CacheFull",
            f"the source has {total} bytes, the node cache may take {room.limit}; give it a larger volume, "
            "or a larger IMAGEFLEET_CACHE_BYTES",
        )
    others = [other for other in entries(cache) if other != entry]
    sizes = {other: other.reserved_bytes() for other in others}
    excess = max(sum(sizes.values()) + total - room.limit, missing - room.free)
    with ExitStack() as locks:
        victims: list[Entry] = []
        for other in sorted((other for other in others if sizes[other]), key=Entry.last_used):
            if excess <= 0:
                break
            lock = locks.enter_context(FileLock(other.lock))
            if lock.try_exclusive():
                victims.append(other)
                excess -= sizes[other]
        if excess > 0:
            raise SourceError(
                "CacheFull",
                f"the source needs {missing} bytes more in the node cache, {excess} more than can be freed: "
                "the rest is in use, or not the cache's; give it a larger volume",
            )
        _delete(victims)


def _delete(victims: Sequence[Entry]) -> None:
    for victim in victims:
        victim.wipe()
