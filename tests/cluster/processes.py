"""Processes that outlive the program that starts them, found again through files."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Record:
    """A process as it was when it started. The start time (clock ticks after boot) tells it from a later
    process that got the same number."""

    name: str
    pid: int
    started: int

    def alive(self) -> bool:
        return start_time(self.pid) == self.started

    def send(self, number: signal.Signals) -> None:
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def start_time(pid: int) -> int | None:
    """None when there is no such process, or when it has ended and only waits to be collected."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name, in parentheses, may hold anything
    return None if fields[0] in "ZX" else int(fields[19])


def start(
    name: str,
    command: Sequence[str],
    *,
    log: Path,
    records: Path,
    env: Mapping[str, str] | None = None,
    owned: bool = False,
) -> Record:
    """Start a process in a session of its own. An owned one dies with the thread that starts it."""
    records.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=None if env is None else dict(env),
            start_new_session=True,
            preexec_fn=_die_with_parent(os.getpid()) if owned else None,
        )
    record = Record(name, process.pid, start_time(process.pid) or 0)
    temporary = records / f".{name}"
    temporary.write_text(json.dumps(asdict(record)))
    temporary.rename(records / f"{name}.json")
    _started.append(process)
    return record


# Popen objects are kept so that ended children are collected (and nothing warns about running ones).
_started: list[subprocess.Popen[bytes]] = []


def _die_with_parent(parent: int) -> Callable[[], None]:
    def set_signal() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)

    return set_signal


def read(records: Path) -> list[Record]:
    return [Record(**json.loads(path.read_text())) for path in sorted(records.glob("*.json"))]


def stop(records: Iterable[Record], *, grace: float = 5.0) -> None:
    """SIGTERM to all, then SIGKILL to those that are still there."""
    remaining = [record for record in records if record.alive()]
    for record in remaining:
        record.send(signal.SIGTERM)
    remaining = wait_gone(remaining, grace)
    for record in remaining:
        record.send(signal.SIGKILL)
    wait_gone(remaining, grace)


def wait_gone(records: Iterable[Record], seconds: float) -> list[Record]:
    deadline = time.monotonic() + seconds
    remaining = list(records)
    while remaining and time.monotonic() < deadline:
        for process in _started:
            process.poll()
        remaining = [record for record in remaining if record.alive()]
        if remaining:
            time.sleep(0.02)
    return remaining
