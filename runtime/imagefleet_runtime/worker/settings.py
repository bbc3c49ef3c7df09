"""The worker's settings, read once from the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

SOURCE_LIMIT_BYTES = 200 * 1024**3


class SettingsError(Exception):
    """A setting is missing or wrong; the message names it and says what it should be."""


# What becomes of running requests when the worker is told to end: they are drawn to their end, or ended at their next
# step with a checkpoint.
Interrupt = Literal["finish", "checkpoint"]


@dataclass(frozen=True)
class CacheSettings:
    """The node cache. Bytes; ``limit_bytes`` 0 stands for nine tenths of its volume."""

    folder: Path
    limit_bytes: int
    source_limit_bytes: int


@dataclass(frozen=True)
class CheckSettings:
    """Names of entry points (see checks); empty: no such check."""

    safety: str = ""
    quality: str = ""


@dataclass(frozen=True)
class Settings:
    namespace: str
    pool: str
    pod: str
    caller_public_key: str  # PEM
    host: str
    port: int
    max_request_seconds: float
    load_seconds: float  # that reading or loading a folder may take at least, before it counts as hung
    queue_limit: int  # requests that wait; the running one is not counted
    torch_threads: int
    cache: CacheSettings
    checks: CheckSettings = CheckSettings()
    interrupt: Interrupt = "finish"

    @property
    def audience(self) -> str:
        return f"{self.namespace}/{self.pool}"


def read_settings(env: Mapping[str, str]) -> Settings:
    """Settings from ``env``. Raises SettingsError."""
    return Settings(
        namespace=_required(env, "IMAGEFLEET_NAMESPACE"),
        pool=_required(env, "IMAGEFLEET_POOL"),
        pod=_required(env, "IMAGEFLEET_POD"),
        caller_public_key=_required(env, "IMAGEFLEET_CALLER_PUBLIC_KEY"),
        host=env.get("IMAGEFLEET_HOST") or "0.0.0.0",
        port=_whole(env, "IMAGEFLEET_PORT", 8000, least=0),
        max_request_seconds=float(_whole(env, "IMAGEFLEET_MAX_REQUEST_SECONDS", 300, least=1)),
        load_seconds=float(_whole(env, "IMAGEFLEET_LOAD_SECONDS", 600, least=1)),
        queue_limit=_whole(env, "IMAGEFLEET_QUEUE_LIMIT", 32, least=0),
        torch_threads=_whole(env, "IMAGEFLEET_TORCH_THREADS", available_cpus(), least=1),
        cache=read_cache_settings(env),
        checks=CheckSettings(
            safety=env.get("IMAGEFLEET_SAFETY_CHECK", "").strip(),
            quality=env.get("IMAGEFLEET_QUALITY_SCORE", "").strip(),
        ),
        interrupt=_interrupt(env),
    )


def _interrupt(env: Mapping[str, str]) -> Interrupt:
    text = env.get("IMAGEFLEET_INTERRUPT", "").strip() or "finish"
    choices: dict[str, Interrupt] = {choice: choice for choice in get_args(Interrupt)}
    if text not in choices:
        raise SettingsError(f"IMAGEFLEET_INTERRUPT is {text!r}; it must be one of {', '.join(choices)}")
    return choices[text]


def read_cache_settings(env: Mapping[str, str]) -> CacheSettings:
    """The node cache's settings from ``env``. Raises SettingsError."""
    return CacheSettings(
        folder=Path(env.get("IMAGEFLEET_CACHE_DIR") or "/cache"),
        limit_bytes=_whole(env, "IMAGEFLEET_CACHE_BYTES", 0, least=0),
        source_limit_bytes=_whole(env, "IMAGEFLEET_SOURCE_LIMIT_BYTES", SOURCE_LIMIT_BYTES, least=1),
    )


def _required(env: Mapping[str, str], name: str) -> str:
    value = env.get(name, "")
    if not value.strip():
        raise SettingsError(f"{name} is not set")
    return value


def _whole(env: Mapping[str, str], name: str, default: int, *, least: int) -> int:
    text = env.get(name, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise SettingsError(f"{name} is {text!r}; it must be a whole number, {least} or more")
    return int(text)


def available_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """CPUs this process may use: those of its affinity mask, or fewer where the cgroup's quota is lower.

    A quota of 1.5 CPUs gives 1: a thread that is throttled holds up all the others at each barrier.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = _cpu_quota(cgroup)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def _cpu_quota(cgroup: Path) -> float | None:
    """CPUs per second that cgroup v2 (``cpu.max``: "QUOTA PERIOD") or v1 grants; None where there is no limit."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return int(quota) / int(period)
