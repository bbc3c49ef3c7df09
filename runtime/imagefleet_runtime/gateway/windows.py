"""Counts over a sliding window of time, in memory that is bounded."""

import math
from collections import deque

import msgspec


class Budget(msgspec.Struct):
    """What callers got of one ImageModel in a window. The fields are those of `GET /v1/gateway`."""

    requests: int = 0
    failed: int = 0
    slow: int = 0
    checked: int = 0
    unsafe: int = 0

    def add(self, other: "Budget") -> None:
        self.requests += other.requests
        self.failed += other.failed
        self.slow += other.slow
        self.checked += other.checked
        self.unsafe += other.unsafe


class _Bucket(msgspec.Struct):
    number: int
    """Bucket `i` holds the times from `i` to `i + 1` times its seconds."""
    counts: Budget


class Window:
    """Counts of the last `buckets` buckets of `bucket_seconds` each, the one under way included.

    The oldest bucket leaves as a whole, so that a window of 30 x 10 s covers the last 290 to 300 s: at most 3 % less
    than it says. Buckets without a count take no memory. A time before the latest one counts as the latest.
    """

    __slots__ = ("_buckets", "_counts", "_seconds", "_until")

    def __init__(self, bucket_seconds: float, buckets: int) -> None:
        self._seconds = bucket_seconds
        self._buckets = buckets
        self._counts: deque[_Bucket] = deque()
        self._until = -math.inf
        """The end of the latest bucket."""

    def __len__(self) -> int:
        """Buckets in memory."""
        return len(self._counts)

    def add(self, counts: Budget, now: float) -> None:
        if now >= self._until:
            number = self._turn(now)
            self._counts.append(_Bucket(number, Budget()))
            self._until = (number + 1) * self._seconds
        self._counts[-1].counts.add(counts)

    def sums(self, now: float) -> Budget:
        self._turn(now)
        sums = Budget()
        for bucket in self._counts:
            sums.add(bucket.counts)
        return sums

    def _turn(self, now: float) -> int:
        """Forget what is too old. The number of the bucket under way."""
        counts, number = self._counts, int(now // self._seconds)
        if counts:
            number = max(number, counts[-1].number)
        while counts and counts[0].number <= number - self._buckets:
            counts.popleft()
        if not counts:
            self._until = -math.inf
        return number
