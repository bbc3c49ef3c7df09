"""How much memory a drawing needs: from what was measured, refined by every drawing since. Does no input or output.

The peak of a batch is taken to be a line in pixels x batch, fitted to all measured points by least squares and raised
until no measured point lies above it. Worked example: 7.0 GB of weights; 10.0 GB for one picture of 1.0 MP, 10.6 GB for
four of them: 0.2 GB for each megapixel on 9.8 GB. With a limit of 12 GB that is 11 pictures of 1 MP at the same time.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from imagefleet_runtime.worker.messages import SizeProfile

# Points that are kept; callers choose sizes, so that there is no end of them.
MOST_POINTS = 256


class Footprint:
    """Of one loaded engine. ``weights_bytes``: held at rest; None: not known."""

    def __init__(self, weights_bytes: int | None, profiles: Iterable[SizeProfile]) -> None:
        self._weights = weights_bytes or 0
        self._peaks: dict[tuple[int, int], int] = {}  # (pixels, batch) to the most that was held
        self._ceilings: set[tuple[int, int]] = set()  # (pixels, batch) for which memory ran out
        self._line: tuple[float, float] | None = None  # bytes, bytes for each pixel
        for profile in profiles:
            for batch, peak in profile.peak_bytes:
                self.observe(profile.width, profile.height, batch, peak)

    def observe(self, width: int, height: int, batch: int, peak: int) -> None:
        """The engine held ``peak`` bytes at most while it drew ``batch`` pictures together."""
        point = (width * height, batch)
        known = self._peaks.get(point)
        if known is None and len(self._peaks) >= MOST_POINTS:
            return
        if known is None or peak > known:
            self._peaks[point] = peak
            self._line = _line(
                [(pixels * batch, peak) for (pixels, batch), peak in self._peaks.items()], self._weights
            )

    def ran_out(self, width: int, height: int, batch: int) -> None:
        """Memory ran out: as many pictures of this size are not drawn together again, nor larger ones."""
        self._ceilings.add((width * height, batch))

    def peak(self, width: int, height: int, batch: int) -> int | None:
        """The most that the engine will hold, in bytes; None: no opinion, for nothing was measured."""
        known = self._peaks.get((width * height, batch))
        if known is not None or self._line is None:
            return known
        base, slope = self._line
        return round(base + slope * width * height * batch)

    def fits(self, width: int, height: int, batch: int, limit_bytes: int) -> bool:
        """Whether ``batch`` pictures of this size can be drawn together within ``limit_bytes``; True: no opinion."""
        if any(width * height >= pixels and batch >= most for pixels, most in self._ceilings):
            return False
        peak = self.peak(width, height, batch)
        return peak is None or peak <= limit_bytes

    def most_together(self, width: int, height: int, at_most: int, limit_bytes: int) -> int:
        """The largest batch up to ``at_most`` that fits, and at least 1: to refuse a picture is another's decision."""
        return next(
            (batch for batch in range(at_most, 1, -1) if self.fits(width, height, batch, limit_bytes)), 1
        )

    def largest_size(
        self, width: int, height: int, multiple: int, limit_bytes: int
    ) -> tuple[int, int] | None:
        """The largest size below ``width`` x ``height``, of the same shape as far as ``multiple`` allows, that fits."""
        for narrower in range((width - 1) // multiple * multiple, 0, -multiple):
            lower = max(narrower * height // width // multiple * multiple, multiple)
            if self.fits(narrower, lower, 1, limit_bytes):
                return narrower, lower
        return None


def _line(points: list[tuple[int, int]], weights: int) -> tuple[float, float]:
    """Bytes, and bytes for each pixel, of the line above all ``points`` (pixels x batch, bytes)."""
    base, slope = float(weights), 0.0
    if len({pixels for pixels, _ in points}) > 1:
        slope, base = statistics.linear_regression(*zip(*points, strict=True))
    if slope <= 0 or base < weights:
        # One point, or a curve that bends upwards: a line from the weights through the steepest point.
        base = float(weights)
        slope = max(0.0, *((peak - weights) / pixels for pixels, peak in points))
    return base + max(0.0, *(peak - base - slope * pixels for pixels, peak in points)), slope
