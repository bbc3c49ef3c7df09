"""What workers measured of a model, for each kind of accelerator: ``status.performance``."""

from collections.abc import Iterable, Sequence
from statistics import median

from imagefleet_operator.api.quantity import bytes_quantity, quantity_bytes
from imagefleet_operator.plan.rounding import settled
from imagefleet_operator.plan.types import Copy, Json, ModelReport, SizeReport

Values = Iterable[float | int | None]


def performances(old: Sequence[Json], copies: Iterable[Copy]) -> list[Json]:
    """Per accelerator the median of what workers measure; what nobody measures now stays.

    Numbers move only when they are 10 % off, so that noise writes nothing.
    """
    before = {entry["accelerator"]: entry for entry in old}
    reports: dict[str, list[ModelReport]] = {}
    for copy in copies:
        if copy.report is not None:
            reports.setdefault(copy.accelerator, []).append(copy.report)
    merged = before | {
        name: _performance(name, before.get(name, {}), found) for name, found in reports.items()
    }
    return [merged[name] for name in sorted(merged) if len(merged[name]) > 1]


def _performance(name: str, old: Json, reports: Sequence[ModelReport]) -> Json:
    known = quantity_bytes(old["memory"]) if "memory" in old else None
    memory = _settled(known, [r.memory_bytes for r in reports])
    modes = sorted({mode for r in reports for mode in r.modes})
    facts: Json = {
        "secondsPerMegapixelStep": _settled(
            old.get("secondsPerMegapixelStep"), [r.seconds_per_megapixel_step for r in reports]
        ),
        "loadSeconds": _settled(old.get("loadSeconds"), [r.load_seconds for r in reports]),
        "memory": old.get("memory") if memory is None or memory == known else bytes_quantity(int(memory)),
        "modes": modes or old.get("modes"),
        "sizes": _sizes(old.get("sizes") or (), reports) or old.get("sizes"),
        "unsupported": _unsupported(old, reports),
    }
    return {"accelerator": name} | {key: value for key, value in facts.items() if value is not None}


def _sizes(old: Sequence[Json], reports: Sequence[ModelReport]) -> list[Json]:
    """Those that any worker reports now, small ones first."""
    before = {entry["size"]: entry for entry in old}
    found: dict[str, list[SizeReport]] = {}
    for report in reports:
        for measured in report.sizes:
            found.setdefault(measured.size, []).append(measured)
    return [_size(size, before.get(size, {}), found[size]) for size in sorted(found, key=_pixels)]


def _pixels(size: str) -> tuple[int, str]:
    width, height = size.split("x")
    return int(width) * int(height), size


def _size(size: str, old: Json, measured: Sequence[SizeReport]) -> Json:
    batch = _settled(old.get("maxBatch"), [m.max_batch for m in measured])
    facts: Json = {
        "maxBatch": None if batch is None else max(1, round(batch)),
        "secondsPerStep": _settled(old.get("secondsPerStep"), [m.seconds_per_step for m in measured]),
    }
    return {"size": size} | {key: value for key, value in facts.items() if value is not None}


def _unsupported(old: Json, reports: Sequence[ModelReport]) -> str | None:
    """Why the accelerator cannot do what the spec asks. A worker that tries again, or is about to, says nothing new
    until it is through; where none tries or has tried, there is no opinion."""
    said = next((r.unsupported for r in reports if r.unsupported), None)
    untried = all(r.state == "Absent" and not r.pinned for r in reports)
    if untried or any(r.state == "Resident" for r in reports):
        return None
    known: str | None = old.get("unsupported")
    return said or known


def _settled(old: float | None, values: Values) -> float | None:
    known = [v for v in values if v is not None]
    return settled(old, median(known) if known else None, within=0.1, digits=2)
