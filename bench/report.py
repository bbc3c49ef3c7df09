"""What every benchmark prints: one JSON object per line on standard output; progress goes to standard error."""

from __future__ import annotations

import json
import sys


def figure(name: str, value: float, unit: str, baseline: float | None = None) -> None:
    """Print one figure. `ratio` is value / baseline, where a baseline was measured in the same run."""
    line: dict[str, object] = {
        "name": name,
        "value": round(value, 6),
        "unit": unit,
        "baseline": None,
        "ratio": None,
    }
    if baseline is not None:
        line["baseline"] = round(baseline, 6)
        line["ratio"] = round(value / baseline, 4) if baseline else None
    print(json.dumps(line), flush=True)


def progress(message: str) -> None:
    """Tell a person how far the benchmark has come."""
    print(message, file=sys.stderr, flush=True)
