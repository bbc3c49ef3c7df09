from pathlib import Path

import pytest
from imagefleet_runtime.worker.memory import MemoryTotal, memory_total, private_bytes


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal:       24672480 kB\nMemFree:        1 kB\n")
    return path


HOST = 24672480 * 1024


@pytest.mark.parametrize(
    ("device_bytes", "files", "want"),
    [
        (100, {"memory.max": "50"}, MemoryTotal(100, "nvml")),
        (None, {"memory.max": "2147483648\n"}, MemoryTotal(2147483648, "cgroup")),
        (None, {"memory.max": "max\n"}, MemoryTotal(HOST, "host")),
        (None, {"memory/memory.limit_in_bytes": "1073741824\n"}, MemoryTotal(1073741824, "cgroup")),
        (None, {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, MemoryTotal(HOST, "host")),
        (None, {}, MemoryTotal(HOST, "host")),
    ],
    ids=str,
)
def test_models_share_the_accelerators_memory_or_the_pods_or_the_hosts(
    tmp_path: Path, meminfo: Path, device_bytes: int | None, files: dict[str, str], want: MemoryTotal
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_total(device_bytes, tmp_path, meminfo) == want


def test_private_memory_is_the_sum_of_clean_and_dirty(tmp_path: Path) -> None:
    rollup = tmp_path / "rollup"
    rollup.write_text("Rss:  1760 kB\nPrivate_Clean:        40 kB\nPrivate_Dirty:       112 kB\n")
    assert private_bytes(rollup) == 152 * 1024


def test_memory_that_the_kernel_does_not_tell_is_no_opinion(tmp_path: Path) -> None:
    assert private_bytes(tmp_path / "nothing") is None
    (tmp_path / "rollup").write_text("Rss:  1760 kB\n")
    assert private_bytes(tmp_path / "rollup") is None
