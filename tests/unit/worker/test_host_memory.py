"""Files of models that are not loaded, in the memory of the node."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from imagefleet_runtime.worker import host_memory, source
from imagefleet_runtime.worker.host_memory import HostMemory, read_all
from imagefleet_runtime.worker.policy import ModelPolicy
from imagefleet_runtime.worker.source import DigestCache
from imagefleet_runtime.worker.sources import NodeCache

from tests.unit.worker.test_fetching import FakeCache
from tests.unit.worker.test_source import make_model as make_folder

pytestmark = pytest.mark.timeout(60)


async def until(done: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not done():  # noqa: ASYNC110 - what is awaited is no event
            await asyncio.sleep(0.01)


class Kept:
    """What it keeps, as it tells."""

    def __init__(self, cache: FakeCache) -> None:
        self.told: list[tuple[str, bool]] = []
        self.digests = DigestCache()
        self.memory = HostMemory(cast(NodeCache, cache), self.digests, lambda *told: self.told.append(told))


def entry(folder: Path, *, remote: bool = False, digest: str = "") -> ModelPolicy:
    found = digest or source.inspect(folder, DigestCache()).digest
    where = {"uri": f"hf://{folder.name}"} if remote else {"path": str(folder)}
    return ModelPolicy(model=folder.name, digest=found, preload=True, **where)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "a")


def test_every_byte_is_read(folder: Path) -> None:
    assert read_all(folder) == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) > 0


async def test_files_are_checked_and_read_once_they_are_there_and_let_go_of_in_the_end(folder: Path) -> None:
    cache = FakeCache({"a": folder})
    kept = Kept(cache)
    kept.memory.keep([entry(folder, remote=True)])
    await until(cache.begun["a"].is_set)
    assert kept.told == []
    cache.may_go_on["a"].set()
    await until(lambda: kept.told == [("a", True)])
    assert cache.held == [folder]
    kept.memory.keep([entry(folder, remote=True)])
    assert kept.told == [("a", True)], "the same again changes nothing"
    kept.memory.keep([])
    assert kept.told[-1] == ("a", False)
    await until(lambda: cache.held == [])


async def test_files_are_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "AGAIN_SECONDS", 0.01)
    kept = Kept(FakeCache({}))
    kept.memory.keep([entry(folder)])
    await until(lambda: len(kept.told) >= 3)
    await kept.memory.stop()
    assert set(kept.told[:3]) == {("a", True)}


async def test_files_that_are_not_those_of_the_digest_are_not_kept_and_looked_at_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_memory, "RETRY_SECONDS", 0.01)
    looks: list[object] = []
    inspect = source.inspect

    def look(*args: Any, **more: Any) -> Any:
        looks.append(args)
        return inspect(*args, **more)

    monkeypatch.setattr(source, "inspect", look)
    kept = Kept(FakeCache({}))
    kept.memory.keep([entry(folder, digest="sha256:" + "0" * 64)])
    await until(lambda: len(looks) >= 2)
    await kept.memory.stop()
    assert ("a", True) not in kept.told
