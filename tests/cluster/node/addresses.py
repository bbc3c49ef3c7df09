"""Loopback addresses for pods, never the same for two pods of one machine."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from typing import IO

FIRST, LAST = 1, 254


class Addresses:
    """Addresses 127.0.x.1 to 127.0.x.254, where x belongs to this process: it holds a lock on the file of
    that number, in a folder that all clusters of the machine share. When one x is used up it takes another."""

    def __init__(self) -> None:
        self._locks: list[IO[str]] = []
        self._free: list[str] = []

    def take(self) -> str:
        if not self._free:
            self._lock_range()
        return self._free.pop(0)

    def give_back(self, address: str) -> None:
        # At the end: a peer that still connects to an old address should find nobody, not another pod.
        self._free.append(address)

    def _lock_range(self) -> None:
        folder = Path(tempfile.gettempdir(), f"imagefleet-loopback-{os.geteuid()}")
        folder.mkdir(exist_ok=True)
        for number in range(FIRST, LAST + 1):
            file = (folder / str(number)).open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                continue
            self._locks.append(file)
            self._free.extend(f"127.0.{number}.{host}" for host in range(FIRST, LAST + 1))
            return
        raise RuntimeError("no free loopback range: 254 node processes run already")
