"""A worker of the node, as a process: ``python -m tests.integration.sources.fetcher CACHE LIMIT PLACE``.

Prints one JSON line when it has the folder (or was refused it), and holds it until its standard input ends.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

from imagefleet_runtime.worker.source import SourceError
from imagefleet_runtime.worker.sources import NodeCache, Place, download

PIECE_BYTES = 1024 * 1024


class Fetcher:
    def __init__(self, process: Popen[str]) -> None:
        self.process = process

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return dict(json.loads(self.process.stdout.readline()))


@contextmanager
def fetching(cache: Path, place: Place, limit_bytes: int = 10**9) -> Iterator[Fetcher]:
    """A process that fetches ``place`` and holds it, killed at the end."""
    command = [sys.executable, "-m", __name__, str(cache), str(limit_bytes), json.dumps(asdict(place))]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        try:
            yield Fetcher(process)
        finally:
            process.kill()


def main() -> None:
    download.STREAMS = 1  # pieces end one after the other, also before the first half of them is there
    folder, limit, place = Path(sys.argv[1]), int(sys.argv[2]), Place(**json.loads(sys.argv[3]))
    cache = NodeCache(folder, limit, 10**9, piece_bytes=PIECE_BYTES)
    try:
        path = cache.fetch(place, lambda done, total: None, threading.Event())
        answer = {"path": str(path), "fetched": cache.fetched_bytes(place)}
    except SourceError as error:
        answer = {"reason": error.reason, "message": error.message}
    print(json.dumps(answer), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
