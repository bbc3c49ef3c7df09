"""Fetching a model from each kind of source, over connections good and bad."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from imagefleet_runtime.worker.source import SourceError
from imagefleet_runtime.worker.sources import FetchStoppedError, NodeCache

from tests.integration.sources.conftest import PIECE_BYTES, S3_KEY, Kept, Model, ignore, make_cache, never
from tests.integration.sources.model import LARGE, LARGE_BYTES, size_of
from tests.servers import start
from tests.servers.hub import files_of
from tests.servers.proxy import Proxy
from tests.unit.worker.test_source import shell_digest


def test_a_model_is_fetched_without_what_no_worker_needs(
    kept: Kept, cache: NodeCache, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    place = kept.place(tmp_path, digest=kept.model.digest)
    folder = cache.fetch(place, lambda done, total: told.append((done, total)), never())
    assert files_of(folder) == files_of(kept.model.folder)
    assert shell_digest(folder) == kept.model.digest
    size = size_of(kept.model.folder)
    assert told[0] == (0, size)
    assert told[-1] == (size, size)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert cache.fetched_bytes(place) == size


def test_what_is_in_the_cache_is_used_without_asking_its_server(in_s3: Kept, tmp_path: Path) -> None:
    with Proxy(in_s3.port).running() as proxy:
        place = in_s3.place(tmp_path, endpoint=proxy.endpoint, digest=in_s3.model.digest)
        first = make_cache(tmp_path / "cache").fetch(place, ignore, never())
    again = make_cache(tmp_path / "cache")
    told: list[tuple[int, int]] = []
    assert again.fetch(place, lambda *now: told.append(now), never()) == first
    assert told == [(size_of(in_s3.model.folder),) * 2]
    assert again.fetched_bytes(place) == 0


def test_a_broken_connection_goes_on_where_it_broke(kept: Kept, cache: NodeCache, tmp_path: Path) -> None:
    with Proxy(kept.port, cut_after=600_000, cuts=3).running() as proxy:
        place = kept.place(tmp_path, endpoint=proxy.endpoint, digest=kept.model.digest)
        folder = cache.fetch(place, ignore, never())
        assert files_of(folder) == files_of(kept.model.folder)
        assert proxy.cuts_left == 0
        # What a broken connection still had in its buffers comes again, and no more.
        assert proxy.passed < size_of(kept.model.folder) + 3 * PIECE_BYTES


def test_a_fetch_that_was_stopped_goes_on_later(kept: Kept, tmp_path: Path) -> None:
    size = size_of(kept.model.folder)
    stop = threading.Event()
    with Proxy(kept.port).running() as proxy:
        place = kept.place(tmp_path, endpoint=proxy.endpoint, digest=kept.model.digest)
        first = make_cache(tmp_path / "cache")
        with pytest.raises(FetchStoppedError):
            first.fetch(place, lambda done, total: stop.set() if done > total // 2 else None, stop)
        second = make_cache(tmp_path / "cache")
        folder = second.fetch(place, ignore, never())
    assert files_of(folder) == files_of(kept.model.folder)
    assert second.fetched_bytes(place) < size // 2
    assert first.fetched_bytes(place) + second.fetched_bytes(place) == size


def test_a_wrong_digest_is_refused_with_the_one_found(in_s3: Kept, cache: NodeCache, tmp_path: Path) -> None:
    place = in_s3.place(tmp_path, digest="sha256:" + "0" * 64)
    with pytest.raises(SourceError) as refused:
        cache.fetch(place, ignore, never())
    assert (refused.value.reason, refused.value.digest) == ("DigestMismatch", in_s3.model.digest)


def test_without_a_digest_any_content_is_taken_and_later_found_by_its_digest(
    in_s3: Kept, tmp_path: Path
) -> None:
    unknown = make_cache(tmp_path / "cache").fetch(in_s3.place(tmp_path), ignore, never())
    pinned = in_s3.place(tmp_path, digest=in_s3.model.digest)
    later = make_cache(tmp_path / "cache")
    assert later.fetch(pinned, ignore, never()) == unknown
    assert later.fetched_bytes(pinned) == 0


def test_a_source_over_the_limit_is_refused_before_its_weights_move(in_s3: Kept, tmp_path: Path) -> None:
    with Proxy(in_s3.port).running() as proxy:
        cache = make_cache(tmp_path / "cache", source_limit_bytes=1_000_000)
        with pytest.raises(SourceError, match="over the limit of 1000000") as refused:
            cache.fetch(in_s3.place(tmp_path, endpoint=proxy.endpoint), ignore, never())
        assert refused.value.reason == "TooLarge"
        assert proxy.passed < 100_000


def test_other_credentials_do_not_open_what_the_cache_holds(in_s3: Kept, tmp_path: Path) -> None:
    """A tenant who knows URI and digest gets no private model out of the cache that way."""
    cache = make_cache(tmp_path / "cache")
    with Proxy(in_s3.port).running() as proxy:
        cache.fetch(
            in_s3.place(tmp_path / "owner", endpoint=proxy.endpoint, digest=in_s3.model.digest),
            ignore,
            never(),
        )
        other = in_s3.place(tmp_path / "other", endpoint="http://127.0.0.1:9", digest=in_s3.model.digest)
        stop = threading.Event()
        stop.set()
        with pytest.raises(FetchStoppedError):  # its own server is asked, and nobody is there
            cache.fetch(other, ignore, stop)


def test_an_object_that_changes_meanwhile_is_not_mixed(
    s3: start.Running, cache: NodeCache, model: Model, tmp_path: Path
) -> None:
    start.upload_s3(s3, "changing", model.folder)
    kept = Kept("s3", f"s3://{start.BUCKET}/changing", s3.port, model, S3_KEY)
    other = tmp_path / "other" / LARGE
    other.parent.mkdir(parents=True)
    other.write_bytes(bytes(LARGE_BYTES))

    def overwrite(done: int, total: int) -> None:
        if done == 0:  # listed, and nothing fetched yet
            start.upload_s3(s3, "changing", tmp_path / "other")

    with pytest.raises(SourceError, match="was changed while it was fetched") as refused:
        cache.fetch(kept.place(tmp_path), overwrite, never())
    assert refused.value.reason == "FetchFailed"
    assert (cache.fetch(kept.place(tmp_path), ignore, never()) / LARGE).read_bytes() == bytes(LARGE_BYTES)
