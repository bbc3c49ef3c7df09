"""Reading what a gateway counted. What is missing, out of range or contradicts itself is no opinion, never zero."""

from collections.abc import Callable, Iterator, Mapping
from sys import intern
from typing import Any, TypeVar

from imagefleet_operator.plan.rollout_types import Arm, Budget, Moments, NameFigures, Served

Entry = tuple[str, str, str]
"""Namespace, pool, and the name of an entry of its ``spec.models``."""
MOST = 2**53
"""No count is larger; sums of such numbers are exact."""
ROUNDING = 1e-6
"""Sums of floating-point numbers are this exact, relatively, whatever the order of their terms."""

T = TypeVar("T")


class InvalidFiguresError(Exception):
    """A gateway answered with something that holds no figures; it counts as no answer."""


def read_figures(body: Any) -> dict[Entry, NameFigures]:
    """The body of ``GET /v1/gateway``. Raises InvalidFiguresError where it is none at all.

    An arm, a budget or a sum that cannot be is left out; the others count. A gateway of a version that counts nothing
    yet answers without ``names``: that is no opinion either.
    """
    try:
        return {_entry(name): _figures(name) for name in body.get("names") or ()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidFiguresError(f"{type(error).__name__}: {error}") from error


def _entry(body: Mapping[str, Any]) -> Entry:
    return intern(str(body["namespace"])), intern(str(body["pool"])), intern(str(body["name"]))


def _figures(body: Mapping[str, Any]) -> NameFigures:
    budgets = list(body.get("budget") or ())
    return NameFigures(
        window=str(body.get("window") or ""),
        arms=_by_model(body.get("arms") or (), _arm),
        short=_by_model(budgets, lambda found: _budget(found["short"])),
        long=_by_model(budgets, lambda found: _budget(found["long"])),
        served=_by_model(body.get("served") or (), _served),
    )


def _by_model(bodies: Any, read: Callable[[Any], T | None]) -> dict[str, T]:
    def found() -> Iterator[tuple[str, T]]:
        for body in bodies:
            value = read(body)
            if value is not None:
                yield intern(str(body["model"])), value

    return dict(found())


def _arm(body: Mapping[str, Any]) -> Arm | None:
    requests, errors, memory = (whole(body, key) for key in ("requests", "errors", "outOfMemory"))
    if requests is None or errors is None or memory is None or not memory <= errors <= requests:
        return None
    checked, unsafe = _checked(body)
    latency, quality = _moments(body.get("latency")), _moments(body.get("quality"))
    return Arm(requests, errors, memory, checked, unsafe, latency, quality)


def _budget(body: Mapping[str, Any]) -> Budget | None:
    requests, failed, slow = (whole(body, key) for key in ("requests", "failed", "slow"))
    # Only successes are slow.
    if requests is None or failed is None or slow is None or failed + slow > requests:
        return None
    return Budget(requests, failed, slow, *_checked(body))


def _checked(body: Mapping[str, Any]) -> tuple[int, int]:
    checked, unsafe = whole(body, "checked"), whole(body, "unsafe")
    return (0, 0) if checked is None or unsafe is None or unsafe > checked else (checked, unsafe)


def _moments(body: Any) -> Moments:
    """Sums that no numbers have are none: by Cauchy and Schwarz, ``sum^2 <= count * squares``.

    Worked example: 2 values of sum 4 have squares of at least 8 (2 and 2).
    """
    found: Mapping[str, Any] = body if isinstance(body, Mapping) else {}
    count, total, squares = whole(found, "count"), number(found, "sum"), number(found, "squares")
    if count is None or total is None or squares is None or squares < 0:
        return Moments()
    return Moments(count, total, squares) if total * total <= count * squares * (1 + ROUNDING) else Moments()


def _served(body: Mapping[str, Any]) -> Served | None:
    requests, pictures = whole(body, "requests"), whole(body, "pictures")
    first, last = number(body, "first"), number(body, "last")
    if requests is None or pictures is None or first is None or last is None or not 0 < first <= last:
        return None
    return Served(requests, pictures, first, last)


def number(body: Mapping[str, Any], key: str) -> float | None:
    """A field as a number; None where it is none, or is none that anybody counts up to."""
    value = body.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MOST:
        return None
    return float(value)


def amount(body: Mapping[str, Any], key: str) -> float | None:
    """A field as a number that is not negative; None where it is none."""
    value = number(body, key)
    return value if value is not None and value >= 0 else None


def whole(body: Mapping[str, Any], key: str) -> int | None:
    """A field as a count; None where it is none."""
    value = amount(body, key)
    return int(value) if value is not None and value.is_integer() else None
