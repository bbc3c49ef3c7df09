"""Loads that are described instead of recorded. All by seed, all with the same kind of requests.

Costs are lognormal, models are drawn with Zipf's weights: a few carry most of the traffic, the rest is a long tail.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from imagefleet_operator.simulate.trace import Request, Trace

Rate = Callable[[float], float]
"""Requests a second, at a time in seconds."""


@dataclass(frozen=True, slots=True)
class Mix:
    """What is asked for: how many models, and what a request costs."""

    models: int = 40
    zipf: float = 1.2
    """Weight of the k-th model is 1 / k ** zipf."""
    median_seconds: float = 20.0
    sigma: float = 0.5
    """Of ln(seconds); the mean is median x exp(sigma² / 2), with these values 22.7 s."""

    @property
    def mean_seconds(self) -> float:
        """GPU-seconds of a request in the mean."""
        return self.median_seconds * math.exp(self.sigma**2 / 2)


def arrivals(rate: Rate, peak: float, duration: float, seed: int, mix: Mix | None = None) -> Trace:
    """A Poisson process whose rate changes, by thinning (Lewis and Shedler 1979); ``peak`` bounds the rate."""
    mix = mix or Mix()
    random = Random(seed)  # noqa: S311 - no secret
    names = [f"model-{k:02}" for k in range(1, mix.models + 1)]
    weights = [1 / k**mix.zipf for k in range(1, mix.models + 1)]
    requests = []
    now = random.expovariate(peak)
    while now < duration:
        if random.random() * peak < rate(now):
            seconds = random.lognormvariate(math.log(mix.median_seconds), mix.sigma)
            requests.append(Request(now, random.choices(names, weights)[0], seconds))
        now += random.expovariate(peak)
    return tuple(requests)


def poisson(workers: float, duration: float, seed: int, mix: Mix | None = None) -> Trace:
    """A steady load that keeps ``workers`` busy in the mean."""
    rate = workers / (mix or Mix()).mean_seconds
    return arrivals(lambda _: rate, rate, duration, seed, mix)


def diurnal(
    workers: float, duration: float, seed: int, mix: Mix | None = None, day: float = 86_400.0
) -> Trace:
    """A load that rises and falls by a sine once a day, between a tenth and nineteen tenths of its mean."""
    mean = workers / (mix or Mix()).mean_seconds

    def rate(now: float) -> float:
        return mean * (1 - 0.9 * math.cos(2 * math.pi * now / day))

    return arrivals(rate, 1.9 * mean, duration, seed, mix)


def flash_crowd(
    workers: float, duration: float, seed: int, mix: Mix | None = None, times: float = 5.0
) -> Trace:
    """A steady load; a third of the way in, within 5 minutes ``times`` as much, which then fades by half every
    10 minutes."""
    base = workers / (mix or Mix()).mean_seconds
    at, rise, half = duration / 3, 300.0, 600.0

    def rate(now: float) -> float:
        if now < at:
            return base
        if now < at + rise:
            return base * (1 + (times - 1) * (now - at) / rise)
        return float(base * (1 + (times - 1) * 0.5 ** ((now - at - rise) / half)))

    return arrivals(rate, times * base, duration, seed, mix)


def single_burst(
    workers: float, duration: float, seed: int, mix: Mix | None = None, times: float = 4.0
) -> Trace:
    """A steady load; half way in, for 2 minutes ``times`` as much, without a warning."""
    base = workers / (mix or Mix()).mean_seconds
    at = duration / 2

    def rate(now: float) -> float:
        return base * (times if at <= now < at + 120 else 1)

    return arrivals(rate, times * base, duration, seed, mix)


LOADS: dict[str, Callable[[float, float, int], Trace]] = {
    "poisson": poisson,
    "diurnal": diurnal,
    "flash-crowd": flash_crowd,
    "single-burst": single_burst,
}
"""By name: (workers busy in the mean, duration in seconds, seed) to a trace."""
