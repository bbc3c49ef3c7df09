"""What a step costs in a batch, and how large a batch is worth it. Learns; does no input or output.

The **slowdown** of a batch is how many times longer its step takes than that of one picture alone. Its **gain** is
batch / slowdown: how many times more pictures a second it draws. Worked example: a step takes 0.10 s alone, 0.12 s for
two and 0.23 s for four: slowdowns 1, 1.2 and 2.3, gains 1, 1.67 and 1.74. Four gain 1.74 / 1.67 - 1 = 4 % over two,
which is less than is worth it: the best batch is two.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from imagefleet_runtime.worker.calibration import averaged, usable
from imagefleet_runtime.worker.messages import SizeProfile

# A larger batch makes everyone in it wait longer; less than this is not worth that.
LEAST_GAIN = 1.05
# Weight of one step: there are many, and single ones are noisy.
NEWEST_STEP = 0.1
# Sizes that were not measured at load and are remembered; callers choose sizes, so that there is no end of them.
MOST_SIZES = 64

Size = tuple[int, int]  # width, height
Curve = dict[int, float]  # batch to the seconds of its step


class StepTimes:
    """Of one model, by size and batch, from what was measured at load and from every step since."""

    def __init__(self, profiles: Iterable[SizeProfile]) -> None:
        self._measured: dict[Size, Curve] = {}
        for profile in profiles:
            curve = {batch: seconds for batch, seconds in sorted(profile.step_seconds) if usable(seconds)}
            if 1 in curve:
                self._measured[profile.width, profile.height] = curve
        # The batches that the best one is chosen from. Steps of those between refine the slowdown alone: three against
        # four would have to gain as much as two against four.
        self._ladders = {size: tuple(curve) for size, curve in self._measured.items()}
        self._met: OrderedDict[Size, Curve] = OrderedDict()

    def observe(self, width: int, height: int, batch: int, seconds: float) -> None:
        """A step of ``batch`` pictures took ``seconds``."""
        size = (width, height)
        curve = self._measured.get(size)
        if curve is None:
            curve = self._met.setdefault(size, {})
            self._met.move_to_end(size)
            if len(self._met) > MOST_SIZES:
                self._met.popitem(last=False)
        seconds_now = averaged(curve.get(batch), seconds, NEWEST_STEP)
        if seconds_now is not None:
            curve[batch] = seconds_now

    def seconds(self, width: int, height: int, batch: int) -> float | None:
        """Of a step, where that was measured."""
        size = (width, height)
        return self._measured.get(size, self._met.get(size, {})).get(batch)

    def slowdown(self, width: int, height: int, batch: int) -> float:
        """At least 1. A size that was never drawn is judged by its nearest measured one; ``batch`` itself, that is no
        gain at all, where nothing is known."""
        if batch == 1:
            return 1.0
        size = (width, height)
        if size in self._measured:
            return _slowdown(self._measured[size], batch, 1.0)
        met = self._met.get(size, {})
        if 1 in met and batch in met:
            return max(met[batch] / met[1], 1.0)
        near = self._nearest(width * height)
        if near is None:
            return float(batch)
        # A smaller picture gains at least as much from company as a larger one. A larger one fills the device as so
        # many pictures of the measured size do.
        scale = max(width * height / (near[0] * near[1]), 1.0)
        return _slowdown(self._measured[near], batch, scale)

    def gain(self, width: int, height: int, batch: int) -> float:
        """Pictures a second, as a multiple of one at a time."""
        return batch / self.slowdown(width, height, batch)

    def best_batch(self, width: int, height: int) -> int:
        """The largest measured batch that draws 5 % more pictures a second than each smaller one that is worth it."""
        best = 1
        for batch in self._ladder(width, height):
            # Not the end where one does not: it may have been measured while others had the machine.
            if self.gain(width, height, batch) >= LEAST_GAIN * self.gain(width, height, best):
                best = batch
        return best

    def _ladder(self, width: int, height: int) -> Sequence[int]:
        size: Size | None = (width, height)
        if size not in self._ladders:
            size = self._nearest(width * height)
        return () if size is None else self._ladders[size]

    def _nearest(self, pixels: int) -> Size | None:
        """The largest measured size with at most ``pixels``, else the smallest."""
        sizes = sorted(self._measured, key=lambda size: size[0] * size[1])
        below = [size for size in sizes if size[0] * size[1] <= pixels]
        if below:
            return below[-1]
        return sizes[0] if sizes else None


def _slowdown(curve: Mapping[int, float], batch: int, scale: float) -> float:
    """Of a batch of pictures ``scale`` times as large as those of ``curve``."""
    return max(_interpolated(curve, batch * scale) / _interpolated(curve, scale), 1.0)


def _interpolated(curve: Mapping[int, float], batch: float) -> float:
    """Seconds of a step, between the measured batches on a line; beyond the largest in proportion (no more gain)."""
    known = sorted(curve)
    if batch >= known[-1]:
        return curve[known[-1]] * batch / known[-1]
    above = next(known_batch for known_batch in known if known_batch > batch)
    below = known[known.index(above) - 1]
    share = (batch - below) / (above - below)
    return curve[below] + share * (curve[above] - curve[below])
