"""Times as a status holds them: whole seconds for people, microseconds where two must be told apart."""

from datetime import UTC, datetime


def microtime(now: float) -> str:
    """Seconds since the epoch with microseconds, e.g. ``microtime(0.5)`` is ``1970-01-01T00:00:00.500000Z``."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seconds_of(text: str | None) -> float:
    """The way back, of whole seconds too; 0 where there is nothing to read."""
    return datetime.fromisoformat(text).timestamp() if text else 0.0
