"""How a merged call is spread over the CPU's threads.

One call can have all threads, which torch then shares out inside of each operation; or the call is cut into **lanes**,
each with a part of the pictures and of the threads. Operations of small models are over before a second thread has
woken up: there lanes are faster, and for few pictures a single thread is. Which, is measured at load (see warm).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch

# Longer steps are not tried with a single thread: waking the others costs 50 us or so in each of some hundred
# operations, which is too little to matter then, and one of 16 threads would take sixteen times as long.
SINGLE_SECONDS = 0.25


@dataclass(frozen=True)
class Split:
    """``lanes`` that run side by side, each with ``threads``."""

    lanes: int
    threads: int


class Lanes:
    """``threads``: all that the engine has. ``choice``: False where every call is to have all of them."""

    def __init__(self, threads: int, *, choice: bool) -> None:
        self._threads = threads
        self._choice = choice
        self._best: dict[int, Split] = {}  # pixels of all pictures together, to what was fastest
        self._others = ThreadPoolExecutor(max(threads - 1, 1), thread_name_prefix="lane")

    def candidates(self, batch: int, step_seconds: float) -> list[Split]:
        """The ways to draw ``batch`` pictures together that may be the fastest; about ``step_seconds`` a step.

        Worked example: 8 threads and 4 pictures: one lane of 8 threads, four of 2 and, for small models, one of 1.
        """
        whole, lanes = Split(1, self._threads), min(batch, self._threads)
        if not self._choice:
            return [whole]
        single = [Split(1, 1)] if step_seconds <= SINGLE_SECONDS else []
        return list(dict.fromkeys([whole, Split(lanes, self._threads // lanes), *single]))

    def learn(self, pixels: int, split: Split) -> None:
        """``split`` is the fastest way to draw pictures of so many ``pixels`` together."""
        self._best[pixels] = split

    def choose(self, pixels: int) -> Split:
        """For pictures of so many ``pixels`` together: as for the most below that were measured, else the fewest."""
        if not self._best:
            return Split(1, self._threads)
        below = [known for known in self._best if known <= pixels]
        return self._best[max(below, default=min(self._best))]

    def alone(self, pixels: int) -> None:
        """Have what this thread does next, outside of steps, use as many threads as a step of this picture alone."""
        torch.set_num_threads(self.choose(pixels).threads)

    def run(
        self, split: Split, draw: Callable[[Sequence[Any]], list[Any]], calls: Sequence[Any]
    ) -> list[Any]:
        """``draw``'s answers to ``calls``, which it is given in as many parts as there are lanes.

        Raises what ``draw`` raises, once all lanes have ended.
        """
        parts = _parts(calls, split.lanes)
        inference = torch.is_inference_mode_enabled()

        def lane(part: Sequence[Any]) -> list[Any]:
            torch.set_num_threads(split.threads)  # of the calling thread alone
            with torch.inference_mode(inference), torch.no_grad():
                return draw(part)

        others = [self._others.submit(lane, part) for part in parts[1:]]
        try:
            first = lane(parts[0])
        finally:
            wait(others)
        return [*first, *(answer for other in others for answer in other.result())]


def _parts(calls: Sequence[Any], lanes: int) -> list[Sequence[Any]]:
    """``calls`` in at most ``lanes`` parts that differ by one at most."""
    count = min(lanes, len(calls))
    ends = [len(calls) * number // count for number in range(count + 1)]
    return [calls[start:end] for start, end in itertools.pairwise(ends)]
