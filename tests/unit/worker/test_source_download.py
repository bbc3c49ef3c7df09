"""The downloader against a remote source in memory, as good or as bad as told."""

import contextlib
import errno
import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imagefleet_runtime.worker.source import SourceError
from imagefleet_runtime.worker.sources import download, remote
from imagefleet_runtime.worker.sources.download import Download
from imagefleet_runtime.worker.sources.journal import Journal
from imagefleet_runtime.worker.sources.place import FetchStoppedError
from imagefleet_runtime.worker.sources.remote import RangeIgnoredError, RemoteFile, TransientError

CHUNK = 7


class Memory:
    """Files by name. ``breaks``: the bytes after which each of the next connections breaks; then they are good."""

    def __init__(self, contents: dict[str, bytes], breaks: list[int] | None = None) -> None:
        self.contents = contents
        self.breaks = breaks or []
        self.ranges = True
        self.opened: list[tuple[str, int, int]] = []

    def files(self) -> list[RemoteFile]:
        return [
            RemoteFile(name, len(content), hashlib.sha256(content).hexdigest(), name, "")
            for name, content in self.contents.items()
        ]

    @contextlib.contextmanager
    def open(self, file: RemoteFile, start: int, end: int) -> Iterator[Iterator[bytes]]:
        self.opened.append((file.name, start, end))
        if not self.ranges and (start, end) != (0, file.size):
            raise RangeIgnoredError
        budget = self.breaks.pop() if self.breaks else None
        yield self._chunks(self.contents[file.name][start:], budget)

    def _chunks(self, content: bytes, budget: int | None) -> Iterator[bytes]:
        for position in range(0, len(content), CHUNK):
            if budget is not None and position >= budget:
                raise TransientError("broken")
            yield content[position : position + CHUNK]

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_DELAY_SECONDS", 0.0)


def run(
    source: Memory,
    folder: Path,
    *,
    files: list[RemoteFile] | None = None,
    piece_bytes: int = 16,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    stop: threading.Event | None = None,
    clock: Callable[[], float] = lambda: 0.0,
) -> tuple[dict[str, str], Download]:
    files = source.files() if files is None else files
    journal = Journal(folder / "journal", sum(file.size for file in files))
    fetch = Download(
        source,
        files,
        folder / "files",
        journal,
        on_progress,
        stop or threading.Event(),
        piece_bytes=piece_bytes,
        clock=clock,
    )
    with contextlib.closing(journal):
        return fetch.run(), fetch


def there(folder: Path, contents: dict[str, bytes]) -> dict[str, bytes]:
    return {name: (folder / "files" / name).read_bytes() for name in contents}


CONTENTS = {"unet/a.safetensors": bytes(range(100)), "unet/empty.json": b"", "index.json": b"{}"}


def test_every_file_is_written_and_hashed(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    sha256, fetch = run(Memory(CONTENTS), tmp_path, on_progress=lambda *now: told.append(now))
    assert there(tmp_path, CONTENTS) == CONTENTS
    assert sha256 == {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    assert (told[0], told[-1], fetch.fetched_bytes) == ((0, 102), (102, 102), 102)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, 90), min_size=1, max_size=4),
    breaks=st.lists(st.integers(0, 40), max_size=5),
    piece_bytes=st.integers(1, 100),
    ranges=st.booleans(),
)
def test_whatever_breaks_the_files_come_whole(
    sizes: list[int],
    breaks: list[int],
    piece_bytes: int,
    ranges: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    weights = random.Random(1)
    contents = {f"{number}.json": weights.randbytes(size) for number, size in enumerate(sizes)}
    source = Memory(contents, breaks)
    source.ranges = ranges
    folder = tmp_path_factory.mktemp("download")
    run(source, folder, piece_bytes=piece_bytes)
    assert there(folder, contents) == contents


def test_what_the_journal_knows_is_not_asked_for_again(tmp_path: Path) -> None:
    source = Memory({"a.json": bytes(range(64))})
    stop = threading.Event()
    first: list[int] = []

    def stop_at_half(done: int, _total: int) -> None:
        first.append(done)
        if done >= 32:
            stop.set()

    with pytest.raises(FetchStoppedError):
        run(source, tmp_path, on_progress=stop_at_half, stop=stop, piece_bytes=1)
    there_already = max(first)
    source.opened.clear()
    _, fetch = run(source, tmp_path, piece_bytes=1)
    assert fetch.fetched_bytes == 64 - there_already
    assert len(source.opened) == 64 - there_already
    assert there(tmp_path, source.contents) == source.contents


def test_a_connection_that_breaks_too_often_in_a_row_fails_the_fetch(tmp_path: Path) -> None:
    source = Memory({"a.json": bytes(50)}, breaks=[0] * remote.ATTEMPTS)
    with pytest.raises(SourceError, match="broken") as failed:
        run(source, tmp_path, piece_bytes=100)
    assert failed.value.reason == "FetchFailed"
    assert len(source.opened) == remote.ATTEMPTS


def test_a_connection_that_brings_enough_each_time_may_break_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "LEAST_BYTES_PER_WINDOW", CHUNK)
    source = Memory({"a.json": bytes(range(200))}, breaks=[CHUNK] * 20)
    run(source, tmp_path, piece_bytes=1000)
    assert there(tmp_path, source.contents) == source.contents


def test_a_server_that_drips_is_given_up(tmp_path: Path) -> None:
    hours = iter(range(10**6))
    source = Memory({"a.json": bytes(1000)})
    with pytest.raises(SourceError, match=r"a.json: \d+ bytes in 3600 s") as failed:
        run(source, tmp_path, piece_bytes=1000, clock=lambda: 3600.0 * next(hours))
    assert failed.value.reason == "FetchFailed"


def test_a_file_of_another_content_is_refused(tmp_path: Path) -> None:
    source = Memory({"a.json": b"good", "b.json": b"fine"})
    files = source.files()
    source.contents["a.json"] = b"evil"
    with pytest.raises(SourceError, match=r"a\.json has SHA-256") as refused:
        run(source, tmp_path, files=files)
    assert refused.value.reason == "DigestMismatch"


def test_more_than_was_announced_is_not_written(tmp_path: Path) -> None:
    source = Memory({"a.json": b"announced"})
    files = source.files()
    source.contents["a.json"] = b"announced, and very much more"
    run(source, tmp_path, files=files)
    assert there(tmp_path, source.contents) == {"a.json": b"announced"}


def test_less_than_was_announced_fails(tmp_path: Path) -> None:
    source = Memory({"a.json": b"announced"})
    files = source.files()
    source.contents["a.json"] = b"ann"
    with pytest.raises(SourceError, match="broke off after 3 of 9 bytes"):
        run(source, tmp_path, files=files)


def test_a_volume_that_fills_up_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "_write", full)
    with pytest.raises(SourceError, match="is full") as refused:
        run(Memory(CONTENTS), tmp_path)
    assert refused.value.reason == "CacheFull"


def test_a_disk_that_fails_is_no_verdict_on_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(download, "_write", broken)
    with pytest.raises(OSError, match="Input/output error"):
        run(Memory(CONTENTS), tmp_path)
