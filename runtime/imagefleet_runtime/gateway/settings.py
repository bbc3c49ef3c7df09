"""Settings, read from the environment once at start."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .bodies import MAX_BODY_BYTES

LOG_LEVELS = ("debug", "info", "warning", "error")


class SettingsError(ValueError):
    """A variable's value cannot be used; the message names it and says what it takes."""


@dataclass(frozen=True)
class Settings:
    """All times are in seconds."""

    host: str
    port: int
    caller_key_file: str
    hold_seconds: float
    """How long a request waits for a worker before it is told to come back later."""
    batch_hold_seconds: float
    """The same for one of priority batch, for which nobody waits."""
    hold_limit: int
    """Requests that may wait at the same time in this process."""
    ahead_seconds: float
    """Work that a worker gets ahead of what it draws: one with more at hand gets no more of what could wait here."""
    body_bytes: int
    """Bytes of callers' bodies that this process may hold at the same time."""
    cache_bytes: int
    """Of replies that are kept for entries with `fallback.cached`."""
    pod: str
    upstream_seconds: float
    """How long a worker may take for one request, its queue included."""
    grace_seconds: float
    """After SIGTERM, how long running and held requests may still take."""
    lame_duck_seconds: float
    """After SIGTERM, how long the port stays open at least: endpoints are withdrawn with a lag."""
    log_level: str = "info"
    """Of the process's own log; every request's line is written whatever it is."""


def read_settings(env: Mapping[str, str] = os.environ) -> Settings:
    """Settings of this process.

    Raises SettingsError where a variable is missing or not of its kind.
    """
    return Settings(
        host=_text(env, "IMAGEFLEET_HOST", "0.0.0.0"),  # a pod listens on all its addresses
        port=int(_number(env, "IMAGEFLEET_PORT", "8080", 0, 65535, int)),
        caller_key_file=_text(env, "IMAGEFLEET_CALLER_KEY_FILE", None),
        hold_seconds=_number(env, "IMAGEFLEET_HOLD_SECONDS", "120", 0, 3600, float),
        batch_hold_seconds=_number(env, "IMAGEFLEET_BATCH_HOLD_SECONDS", "300", 0, 3600, float),
        hold_limit=int(_number(env, "IMAGEFLEET_HOLD_LIMIT", "1000", 0, 1_000_000, int)),
        ahead_seconds=_number(env, "IMAGEFLEET_AHEAD_SECONDS", "3", 0, 3600, float),
        body_bytes=int(
            _number(env, "IMAGEFLEET_BODY_BYTES", str(256 * 1024 * 1024), MAX_BODY_BYTES, 2**40, int)
        ),
        cache_bytes=int(_number(env, "IMAGEFLEET_CACHE_BYTES", str(64 * 1024 * 1024), 0, 2**40, int)),
        pod=_text(env, "IMAGEFLEET_POD", os.uname().nodename),
        upstream_seconds=_number(env, "IMAGEFLEET_UPSTREAM_SECONDS", "600", 1, 86400, float),
        grace_seconds=_number(env, "IMAGEFLEET_GRACE_SECONDS", "330", 0, 86400, float),
        lame_duck_seconds=_number(env, "IMAGEFLEET_LAME_DUCK_SECONDS", "5", 0, 600, float),
        log_level=_choice(env, "IMAGEFLEET_LOG_LEVEL", "info", LOG_LEVELS),
    )


def _text(env: Mapping[str, str], name: str, default: str | None) -> str:
    value = env.get(name, "").strip() or default
    if value is None:
        raise SettingsError(f"{name} is not set; it has no default")
    return value


def _choice(env: Mapping[str, str], name: str, default: str, choices: tuple[str, ...]) -> str:
    text = _text(env, name, default).lower()
    if text not in choices:
        raise SettingsError(f"{name} must be one of {', '.join(choices)}, not {text!r}")
    return text


def _number(
    env: Mapping[str, str], name: str, default: str, low: float, high: float, kind: Callable[[str], float]
) -> float:
    text = _text(env, name, default)
    what = "a whole number" if kind is int else "a number"
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise SettingsError(f"{name} must be {what} from {low} to {high}, not {text!r}")
    return value
