"""The node cache between the workers of a node: who fetches, who waits, what makes way and what never does."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from imagefleet_runtime.worker.source import DigestCache, File, SourceError
from imagefleet_runtime.worker.sources import FetchStoppedError, NodeCache, Place

from tests.integration.sources.conftest import (
    PIECE_BYTES,
    Kept,
    Model,
    ignore,
    make_cache,
    never,
    write_secret,
)
from tests.integration.sources.fetcher import fetching
from tests.integration.sources.model import LARGE, size_of
from tests.servers.hub import Hub, files_of
from tests.servers.proxy import Proxy


def test_one_of_two_workers_fetches_and_the_other_shares(in_s3: Kept, tmp_path: Path) -> None:
    size = size_of(in_s3.model.folder)
    with Proxy(in_s3.port).running() as proxy:
        place = in_s3.place(tmp_path, endpoint=proxy.endpoint, digest=in_s3.model.digest)
        with fetching(tmp_path / "cache", place) as one, fetching(tmp_path / "cache", place) as other:
            answers = [one.answer(), other.answer()]
        assert proxy.passed < size + PIECE_BYTES
    assert answers[0]["path"] == answers[1]["path"]
    assert sorted(answer["fetched"] for answer in answers) == [0, size]
    assert files_of(Path(answers[0]["path"])) == files_of(in_s3.model.folder)


def test_the_one_who_waits_tells_how_far_the_other_is(in_s3: Kept, tmp_path: Path) -> None:
    size = size_of(in_s3.model.folder)
    told: list[tuple[int, int]] = []
    stop = threading.Event()

    def look(done: int, total: int) -> None:
        told.append((done, total))
        if done > 0:
            stop.set()

    with Proxy(in_s3.port, hang_after=size // 2).running() as proxy:
        place = in_s3.place(tmp_path, endpoint=proxy.endpoint, digest=in_s3.model.digest)
        with fetching(tmp_path / "cache", place):
            assert proxy.hangs.wait(30)
            proxy.mend()
            with pytest.raises(FetchStoppedError):
                make_cache(tmp_path / "cache").fetch(place, look, stop)
    assert {total for _, total in told} == {size}


def test_what_a_killed_worker_had_fetched_is_not_fetched_again(in_s3: Kept, tmp_path: Path) -> None:
    size = size_of(in_s3.model.folder)
    proxy = Proxy(in_s3.port, hang_after=size * 2 // 3)
    with proxy.running():
        place = in_s3.place(tmp_path, endpoint=proxy.endpoint, digest=in_s3.model.digest)
        with fetching(tmp_path / "cache", place):
            assert proxy.hangs.wait(30)
        proxy.mend()
        successor = make_cache(tmp_path / "cache")
        folder = successor.fetch(place, ignore, never())
    assert files_of(folder) == files_of(in_s3.model.folder)
    assert successor.fetched_bytes(place) < size


@pytest.fixture
def hubs(model: Model) -> Iterator[list[Hub]]:
    """Three models of the same size."""
    hubs = [Hub({**files_of(model.published), "unet/config.json": b'{"%d": 0}' % n}) for n in range(3)]
    with hubs[0].running(), hubs[1].running(), hubs[2].running():
        yield hubs


def _place(hub: Hub, folder: Path) -> Place:
    return Place(None, hub.uri, str(write_secret(folder / str(hub.port), {"endpoint": hub.endpoint})))


def _entries(cache: Path) -> set[Path]:
    return {path.parent / "files" for path in cache.glob("*/complete")}


@pytest.fixture
def room_for_two(model: Model) -> int:
    """Bytes."""
    return 2 * size_of(model.folder) + 1000


def test_the_least_recently_used_makes_way(hubs: list[Hub], room_for_two: int, tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache", room_for_two)
    first, second = (cache.fetch(_place(hub, tmp_path), ignore, never()) for hub in hubs[:2])
    cache.release(first)
    cache.release(second)
    os.utime(first.parent / "complete", (1, 1))
    os.utime(second.parent / "complete", (2, 2))
    assert cache.fetch(_place(hubs[0], tmp_path), ignore, never()) == first  # from now on the last one used
    cache.release(first)
    third = cache.fetch(_place(hubs[2], tmp_path), ignore, never())
    assert _entries(tmp_path / "cache") == {first, third}
    assert not second.exists()


def test_what_a_worker_of_the_node_uses_never_makes_way(
    hubs: list[Hub], room_for_two: int, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    cache = make_cache(folder, room_for_two)
    with fetching(folder, _place(hubs[0], tmp_path), room_for_two) as other:
        used = Path(other.answer()["path"])
        os.utime(used.parent / "complete", (1, 1))
        idle = cache.fetch(_place(hubs[1], tmp_path), ignore, never())
        with pytest.raises(SourceError, match="in use") as refused:
            cache.fetch(_place(hubs[2], tmp_path), ignore, never())
        assert refused.value.reason == "CacheFull"
        assert _entries(folder) == {used, idle}
        cache.release(idle)
        third = cache.fetch(_place(hubs[2], tmp_path), ignore, never())
        assert _entries(folder) == {used, third}
        cache.release(third)
    again = cache.fetch(_place(hubs[1], tmp_path), ignore, never())  # the other worker was killed
    assert _entries(folder) == {third, again}


def test_a_folder_with_two_users_is_in_use_until_both_release_it(
    hubs: list[Hub], room_for_two: int, tmp_path: Path
) -> None:
    cache = make_cache(tmp_path / "cache", room_for_two // 2)
    path = cache.fetch(_place(hubs[0], tmp_path), ignore, never())
    cache.hold(path)
    cache.release(path)
    with pytest.raises(SourceError, match="in use"):
        cache.fetch(_place(hubs[1], tmp_path), ignore, never())
    cache.release(path)
    assert cache.fetch(_place(hubs[1], tmp_path), ignore, never()) != path
    assert not path.exists()


def test_what_was_left_half_fetched_makes_way_too(hubs: list[Hub], room_for_two: int, tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache", room_for_two // 2)
    stop = threading.Event()
    with pytest.raises(FetchStoppedError):
        cache.fetch(_place(hubs[0], tmp_path), lambda done, total: stop.set() if done else None, stop)
    cache.fetch(_place(hubs[1], tmp_path), ignore, never())
    assert len(list((tmp_path / "cache").glob("*/files"))) == 1
    assert not list((tmp_path / "cache").glob("*/partial"))


def test_a_model_larger_than_the_cache_is_refused_and_nothing_makes_way(
    hubs: list[Hub], room_for_two: int, tmp_path: Path
) -> None:
    idle = make_cache(tmp_path / "cache").fetch(_place(hubs[0], tmp_path), ignore, never())
    with pytest.raises(SourceError, match="IMAGEFLEET_CACHE_BYTES") as refused:
        make_cache(tmp_path / "cache", 1000).fetch(_place(hubs[1], tmp_path), ignore, never())
    assert refused.value.reason == "CacheFull"
    assert idle.exists()


def test_an_altered_copy_is_fetched_anew(in_s3: Kept, tmp_path: Path) -> None:
    place = in_s3.place(tmp_path, digest=in_s3.model.digest)
    cache = make_cache(tmp_path / "cache")
    path = cache.fetch(place, ignore, never())
    (path / LARGE).write_bytes(b"not what was fetched")
    with pytest.raises(SourceError, match="altered") as refused:
        make_cache(tmp_path / "cache").fetch(place, ignore, never())
    assert refused.value.reason == "DigestMismatch"
    cache.release(path)
    again = make_cache(tmp_path / "cache").fetch(place, ignore, never())
    assert files_of(again) == files_of(in_s3.model.folder)


class NothingToRead(DigestCache):
    """Fails where a file that was just fetched would be read again."""

    def sha256(self, file: File) -> str:
        assert file in self._digests, f"{file.path} is read again"
        return super().sha256(file)


def test_checking_what_was_just_fetched_reads_nothing(in_s3: Kept, tmp_path: Path) -> None:
    cache = NodeCache(tmp_path / "cache", 10**9, 10**9, digests=NothingToRead())
    place = in_s3.place(tmp_path, digest=in_s3.model.digest)
    assert files_of(cache.fetch(place, ignore, never())) == files_of(in_s3.model.folder)


def test_a_local_folder_is_left_where_it_is(cache: NodeCache, tmp_path: Path) -> None:
    path = cache.fetch(Place("/models/shapes-1", None), ignore, never())
    cache.hold(path)
    cache.release(path)
    assert path == Path("/models/shapes-1")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_said_to_be(in_s3: Kept, tmp_path: Path) -> None:
    cache = make_cache(Path("/sys/cache"))  # also root may write nothing there
    with pytest.raises(SourceError, match="/sys/cache cannot be written by uid") as refused:
        cache.fetch(in_s3.place(tmp_path), ignore, never())
    assert refused.value.reason == "FetchFailed"
