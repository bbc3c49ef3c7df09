"""Reading the operator's metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from math import inf

from prometheus_client.parser import text_string_to_metric_families

Key = tuple[str, tuple[tuple[str, str], ...]]


class Scrape:
    """All samples of one `/metrics`, or how much they grew."""

    def __init__(self, text: str = "", samples: Mapping[Key, float] | None = None) -> None:
        self._samples = dict(samples or {})
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._samples[sample.name, tuple(sorted(sample.labels.items()))] = sample.value

    def since(self, earlier: Scrape) -> Scrape:
        """What was counted since then."""
        return Scrape(samples={k: value - earlier._samples.get(k, 0.0) for k, value in self._samples.items()})

    def values(self, name: str) -> list[float]:
        """Of all labels."""
        return [value for (found, _), value in self._samples.items() if found == name]

    def total(self, name: str) -> float:
        """The sum over all labels."""
        return sum(self.values(name))

    def buckets(self, name: str) -> dict[float, float]:
        """Of a histogram, over all its labels: how many were at most so long."""
        found: dict[float, float] = defaultdict(float)
        for (sample, labels), value in self._samples.items():
            if sample == f"{name}_bucket":
                found[float(dict(labels)["le"])] += value
        return found


def quantile(buckets: Mapping[float, float], share: float) -> float:
    """The value that a share of all is below, on a line within its bucket; the largest bound where it is beyond.

    Worked example: 50 at most 0.1 s and 100 at most 0.2 s: a share of 0.75 is below 0.15 s.
    """
    bounds = sorted(buckets)
    wanted = share * buckets[inf] if bounds else 0.0
    below, before = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= wanted and buckets[bound] > before:
            if bound == inf:
                return below
            return below + (bound - below) * (wanted - before) / (buckets[bound] - before)
        below, before = bound, buckets[bound]
    return 0.0
