"""What a step costs in a batch, and how large a batch is worth it. Learns; does no input or output.

The **slowdown** of a batch is how many times longer its step takes than that of one picture alone. Its **gain** is
batch / slowdown: how many times more pictures a second it draws. Worked example: a step takes 0.10 s alone, 0.12 s for
two and 0.23 s for four: slowdowns 1, 1.2 and 2.3, gains 1, 1.67 and 1.74. Four gain 1.74 / 1.67 - 1 = 4 % over two,
which is less than is worth it: the best batch is two.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from imagefleet_runtime.worker.calibration import averaged, usable
from imagefleet_runtime.worker.messages import SizeProfile

# A larger batch makes everyone in it wait longer; less than this is not worth that.
LEAST_GAIN = 1.05
# Weight of one step: there are many, and single ones are noisy.
NEWEST_STEP = 0.1
# A larger batch that was measured as no gain is tried again after so many reports of steps of the best one, a minute or
# two of full load, and for so many: it may have been measured while others had the machine.
RETRY_AFTER = 2000
TRIAL_REPORTS = 20
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
        self._loaded = {size: dict(curve) for size, curve in self._measured.items()}
        self._shortest: dict[Size, Curve] = {size: {} for size in self._measured}
        self._undisturbed = {size: dict(curve) for size, curve in self._measured.items()}
        # The batches that the best one is chosen from. Steps of those between refine the slowdown alone: three against
        # four would have to gain as much as two against four.
        self._ladders = {size: tuple(curve) for size, curve in self._measured.items()}
        self._met: OrderedDict[Size, Curve] = OrderedDict()
        self._retries = {size: _Retry(ladder) for size, ladder in self._ladders.items()}

    def observe(self, width: int, height: int, batch: int, seconds: float) -> None:
        """A step of ``batch`` pictures took ``seconds``."""
        size = (width, height)
        if usable(seconds) and seconds < self._shortest.get(size, {}).get(batch, math.inf):
            self._note_shortest(size, batch, seconds)
        curve = self._measured.get(size)
        if curve is None:
            curve = self._met.setdefault(size, {})
            self._met.move_to_end(size)
            if len(self._met) > MOST_SIZES:
                self._met.popitem(last=False)
        seconds_now = averaged(curve.get(batch), seconds, NEWEST_STEP)
        if seconds_now is not None:
            curve[batch] = seconds_now
            if size in self._retries:
                curve.update(self._retries[size].observe(self._best(width, height), batch, seconds))

    def _note_shortest(self, size: Size, batch: int, seconds: float) -> None:
        if size in self._loaded:
            self._shortest[size][batch] = seconds
            self._undisturbed[size] = _undisturbed(self._loaded[size], self._shortest[size])

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
        met = self._met.get(size, {})
        if 1 in met and batch in met:
            return max(met[batch] / met[1], 1.0)
        return self._nearest_slowdown(self._measured, size, batch)

    def undisturbed_slowdown(self, width: int, height: int, batch: int) -> float:
        """The same by the shortest steps of each batch since the model was loaded.

        A model is often loaded beside one that draws, and what was measured then is not to be compared with what is
        drawn later. Other work on the device only ever adds to a step's time: the shortest ones are of like conditions.
        """
        return 1.0 if batch == 1 else self._nearest_slowdown(self._undisturbed, (width, height), batch)

    def _nearest_slowdown(self, curves: Mapping[Size, Curve], size: Size, batch: int) -> float:
        pixels = size[0] * size[1]
        near = size if size in curves else self._nearest(pixels)
        if near is None:
            return float(batch)
        # A smaller picture gains at least as much from company as a larger one. A larger one fills the device as so
        # many pictures of the measured size do.
        scale = 1.0 if near == size else max(pixels / (near[0] * near[1]), 1.0)
        return _slowdown(curves[near], batch, scale)

    def gain(self, width: int, height: int, batch: int) -> float:
        """Pictures a second, as a multiple of one at a time."""
        return batch / self.slowdown(width, height, batch)

    def best_batch(self, width: int, height: int) -> int:
        """The largest measured batch that draws 5 % more pictures a second than each smaller one that is worth it.

        Now and then, for a while, a larger one: to measure it again.
        """
        retry = self._retries.get((width, height))
        return self._best(width, height) if retry is None or retry.batch is None else retry.batch

    def _best(self, width: int, height: int) -> int:
        best = 1
        for batch in self._ladder(width, height):
            # Not the end where one does not: it may have been measured while others had the machine.
            if self._undisturbed_gain(width, height, batch) >= LEAST_GAIN * self._undisturbed_gain(
                width, height, best
            ):
                best = batch
        return best

    def _undisturbed_gain(self, width: int, height: int, batch: int) -> float:
        """By like conditions: of one picture drawn just now and two drawn in a busy hour, two would seem no gain, and
        would never be drawn again. A size that was met has only been drawn since."""
        if (width, height) in self._met:
            return self.gain(width, height, batch)
        return batch / self.undisturbed_slowdown(width, height, batch)

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


class _Retry:
    """Which of the larger batches of one size is being tried again (``batch``; None: none), and how it does."""

    def __init__(self, ladder: Sequence[int]) -> None:
        self._ladder = ladder
        self.batch: int | None = None
        self._smaller = 0  # than which no report counts for the trial: the best batch when it began
        self._last = 0  # that was tried
        self._reports = 0  # of the best batch since the last trial, or of larger ones in this one
        self._least = math.inf

    def observe(self, best: int, batch: int, seconds: float) -> Curve:
        """A report of steps of ``batch`` pictures, where ``best`` is the best batch by now.

        Returns what a trial that ends here has measured: the least, for other work only ever adds to a step's time.
        """
        if self.batch is None:
            self._reports += batch >= best
            self._begin(best)
            return {}
        self._reports += batch > self._smaller
        if batch == self.batch:
            self._least = min(self._least, seconds)
        return self._end() if self._reports >= TRIAL_REPORTS else {}

    def _begin(self, best: int) -> None:
        """Try the next larger batch after the last one that was tried, in turn."""
        larger = [batch for batch in self._ladder if batch > best]
        if larger and self._reports >= RETRY_AFTER:
            self.batch = self._last = next((batch for batch in larger if batch > self._last), larger[0])
            self._smaller, self._reports = best, 0

    def _end(self) -> Curve:
        assert self.batch is not None, "one is being tried"
        found = {} if math.isinf(self._least) else {self.batch: self._least}
        self.batch, self._reports, self._least = None, 0, math.inf
        return found


def _undisturbed(loaded: Curve, shortest: Curve) -> Curve:
    """Seconds of a step without other work on the device: the shortest, and of batches that were not drawn since the
    model was loaded what was measured then, less what the others have shown to have been other work's doing.

    Worked example: at load, beside another model, 0.20 s alone and 0.30 s for two; since then two took 0.15 s, and
    nobody was drawn alone: 0.20 x 0.15 / 0.30 = 0.10 s. With 0.20 s, a picture in company would seem to cost twice as
    much as it does.
    """
    both = loaded.keys() & shortest.keys()
    left = min((shortest[batch] / loaded[batch] for batch in both), default=1.0)
    assumed = {batch: seconds * min(left, 1.0) for batch, seconds in loaded.items() if batch not in both}
    return shortest | assumed | {batch: min(loaded[batch], shortest[batch]) for batch in both}


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
