"""Files of models that are not loaded, read into the memory of the node, so that a load copies them from there.

The memory is the kernel's page cache: what is needed for something else it takes back, what was not read for longest
first. So files are read again now and then, which costs no disk where they are there still. The first time they are
checked as for a load, which then hashes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from imagefleet_runtime.worker import source
from imagefleet_runtime.worker.files import Files
from imagefleet_runtime.worker.logs import log
from imagefleet_runtime.worker.policy import ModelPolicy
from imagefleet_runtime.worker.source import DigestCache, SourceError
from imagefleet_runtime.worker.sources import NodeCache
from imagefleet_runtime.worker.threads import in_thread

AGAIN_SECONDS = 300.0
RETRY_SECONDS = 30.0
BLOCK_BYTES = 2**20


class HostMemory:
    """``changed`` is called with a model's name and whether its files are in memory now."""

    def __init__(self, cache: NodeCache, digests: DigestCache, changed: Callable[[str, bool], None]) -> None:
        self._cache = cache
        self._digests = digests
        self._changed = changed
        self._kept: dict[str, tuple[object, asyncio.Task[None]]] = {}

    def keep(self, entries: Iterable[ModelPolicy]) -> None:
        """Keep the files of these models in memory, and of no others. To be called from the event loop."""
        wanted = {entry.model: entry for entry in entries}
        for name, (identity, task) in list(self._kept.items()):
            if name not in wanted or wanted[name].identity != identity:
                task.cancel()
                del self._kept[name]
                self._changed(name, False)
        for name in wanted.keys() - self._kept.keys():
            entry = wanted[name]
            self._kept[name] = (entry.identity, asyncio.create_task(self._keep(entry)))

    async def stop(self) -> None:
        """Let go of all."""
        tasks = [task for _, task in self._kept.values()]
        self.keep(())
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, entry: ModelPolicy) -> None:
        while True:
            there = asyncio.Event()
            files = Files(self._cache, entry, there.set)
            try:
                if not files.ready:
                    await there.wait()
                if files.error is not None:
                    raise files.error
                await self._read(entry, files)
            except (SourceError, OSError) as error:
                log("host_memory_failed", model=entry.model, message=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            finally:
                files.release()

    async def _read(self, entry: ModelPolicy, files: Files) -> None:
        """Check the files, then read them again and again. Raises SourceError and OSError."""
        check = partial(source.inspect, files.pipeline, self._digests, digest=entry.digest)
        await in_thread(check)
        while True:
            for folder in (files.pipeline, *files.adapters.values()):
                await in_thread(partial(read_all, folder))
            self._changed(entry.model, True)
            await asyncio.sleep(AGAIN_SECONDS)


def read_all(folder: Path) -> int:
    """Read every file of a folder to its end; how many bytes there are. Raises SourceError and OSError."""
    return sum(_read_file(file.path) for file in source.scan(folder))


def _read_file(path: str | bytes | Path) -> int:
    count = 0
    with open(path, "rb", buffering=0) as stream:
        while block := stream.read(BLOCK_BYTES):
            count += len(block)
    return count
