import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from imagefleet_runtime.worker.source import SourceError
from imagefleet_runtime.worker.sources.entry import Entry
from imagefleet_runtime.worker.sources.locks import FileLock
from imagefleet_runtime.worker.sources.room import Room, make_room, measure


@pytest.mark.parametrize(
    ("limit", "want"),
    [
        (0, Room(limit=900, free=300)),  # a tenth of 1,000 bytes stays free
        (500, Room(limit=500, free=400)),
    ],
)
def test_without_a_limit_a_tenth_of_the_volume_stays_free(
    limit: int, want: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = SimpleNamespace(f_blocks=100, f_frsize=10, f_bavail=40)
    monkeypatch.setattr(os, "statvfs", lambda path: volume)
    assert measure(Path("/cache"), limit) == want


def entry(cache: Path, name: str, size: int = 0, used: int = 0) -> Entry:
    """An entry of ``size`` bytes, last used at ``used``."""
    found = Entry(cache / (name * 64))
    found.files.mkdir(parents=True)
    if size:
        marker = {"uri": "", "fingerprint": "", "digest": "", "bytes": size}
        found.complete.write_text(json.dumps(marker))
        os.utime(found.complete, (used, used))
    return found


@pytest.mark.parametrize(
    ("sizes", "total", "held", "want"),
    [
        ([10, 10, 10], 70, "", "abc"),  # it fits
        ([10, 10, 10], 71, "", "bc"),  # one byte too much: the least recently used goes
        ([10, 10, 10], 81, "", "c"),
        ([10, 10, 10], 100, "", ""),
        ([10, 10, 10], 71, "a", "ac"),
        ([10, 10, 10], 90, "ab", None),  # all that is not held would not do: nothing goes
        ([], 100, "", ""),
        ([], 101, "", None),  # it never fits
    ],
)
def test_as_many_as_needed_make_way_and_none_that_is_held(
    sizes: list[int], total: int, held: str, want: str | None, tmp_path: Path
) -> None:
    others = {
        name: entry(tmp_path, name, size, used)
        for used, (name, size) in enumerate(zip("abc", sizes, strict=False), 1)
    }
    locks = [FileLock(others[name].lock) for name in held]
    assert all(lock.try_shared() for lock in locks)
    new = entry(tmp_path, "d")
    if want is None:
        with pytest.raises(SourceError) as refused:
            make_room(tmp_path, new, total, total, 100)
        assert refused.value.reason == "CacheFull"
        want = "abc"[: len(sizes)]
    else:
        make_room(tmp_path, new, total, total, 100)
    assert "".join(name for name, other in others.items() if other.complete.exists()) == want
    assert "".join(name for name, other in others.items() if other.files.exists()) == want
    for lock in locks:
        lock.close()
