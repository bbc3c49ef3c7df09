"""Which pictures are drawn next, and when a place in the queue will be free. Pure.

One batch runs at a time: pictures of the same model, size and adapters (its **key**). Others of that key join it while
it has free slots; what has another key waits until the batch has ended. What is **urgent** does not wait for what is
not: the batch's other pictures are put aside where they are (``to_pause``), and wait again, to be gone on with.

Requests are ranked by class, interactive before batch, and inside a class by when they are **due**: the moment at which
they would have to begin to meet their deadline, but at most ``PATIENCE`` seconds after they came. The one that is due
first has the least slack. Urgent is what is interactive, and who has waited for ``PATIENCE``. So nobody is overtaken by
a request that comes more than ``PATIENCE`` and the longest admitted request after it (see ``due``).

Pictures that the batch has room for may overtake one of another key (EASY backfilling) where the batch then ends no
later than it would anyway, or within half of the slack of the one that is overtaken; what is not urgent never overtakes
what is.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Priority = Literal["interactive", "batch"]

# Seconds after which a request of class batch counts as interactive, and any request as due.
PATIENCE = 600.0
# Part of another's slack that those who overtake it may use up: the rest is for errors of the estimates.
SLACK_TO_SPEND = 0.5
# Against rounding: a batch that ends as late as before must not seem later.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Key:
    """What pictures must share to be drawn in one batch."""

    model: str
    width: int
    height: int
    adapters: tuple[tuple[str, float], ...] = ()  # name and scale, sorted


@dataclass(frozen=True)
class Speed:
    """``slowdown(b)``: how many times longer b pictures take, drawn together, than one; at least 1, and at most b where
    a batch is worth anything. ``cap``: the most that are drawn together."""

    cap: int
    slowdown: Callable[[int], float]

    def gain(self, pictures: int) -> float:
        """How many times faster so many pictures are drawn than one after the other."""
        batch = max(1, min(pictures, self.cap))
        return max(batch / self.slowdown(batch), 1.0)


@dataclass(frozen=True)
class Task:
    """The pictures of one request that wait to be begun, or gone on with; or one picture that is being drawn. Times in
    seconds, on one clock."""

    id: int
    key: Key
    priority: Priority
    arrived: float
    deadline: float
    seconds: float  # of one picture that has the device for itself
    pictures: int
    remaining: float  # of the whole request, the pictures that are being drawn included
    begun: bool = False  # whether some of its pictures were: then it no longer holds a place in the queue
    pausable: bool = True  # whether its engine can put it aside

    @property
    def due(self) -> float:
        """When it should begin.

        Worked example: came at 100, wanted by 130, 12 s of work: due at 118. One that came at 100 and is wanted by
        3,700 is due at 700. That of a request of at most M seconds is later than its arrival less M: one that comes
        more than PATIENCE + M after another is due after it.
        """
        return min(self.deadline - self.remaining, self.arrived + PATIENCE)


@dataclass(frozen=True)
class Batch:
    """What is being drawn. ``key``: None where the device is free; ``remaining``: seconds that each picture would need
    alone. A key without pictures: those that were there were cancelled, and leave at their next step."""

    key: Key | None = None
    remaining: tuple[float, ...] = ()


def rank(task: Task, now: float) -> tuple[int, float, float]:
    """Lowest first."""
    return (0 if is_urgent(task, now) else 1, task.due, task.arrived)


def is_urgent(task: Task, now: float) -> bool:
    return task.priority == "interactive" or now - task.arrived >= PATIENCE


def ends(remaining: Iterable[float], slowdown: Callable[[int], float]) -> list[float]:
    """Seconds until each picture of a batch is done, ascending, where nobody joins.

    Worked example: 1 s and 3 s of work alone, two together 1.5 times as slow: the first ends after 1 x 1.5 = 1.5 s, the
    other after 1.5 + (3 - 1) x 1 = 3.5 s.
    """
    work = sorted(remaining)
    times: list[float] = []
    elapsed = done = 0.0
    for index, seconds in enumerate(work):
        elapsed += (seconds - done) * slowdown(len(work) - index)
        done = seconds
        times.append(elapsed)
    return times


def to_pause(
    running: Sequence[Task], waiting: Iterable[Task], now: float, speed_of: Callable[[Key], Speed]
) -> list[Task]:
    """Those of ``running``, the batch's pictures, that are to make room for ``waiting``: the last ones first.

    A batch of another key ends for an urgent request once nothing urgent is left in it. In a full batch of its own key
    an urgent picture takes the place of one that is not. What is urgent is never put aside, so that nobody is after
    PATIENCE, and two requests never put each other aside in turn. Worked example: a full batch of four, one of them
    urgent; two urgent pictures of its key come: the two of the other three that rank last are paused. Urgent pictures
    of another key come: none is, until the urgent one has ended.
    """
    urgent = sorted((task for task in waiting if is_urgent(task, now)), key=lambda task: rank(task, now))
    if not urgent or not running:
        return []
    key = running[0].key
    lower = [task for task in running if task.pausable and not is_urgent(task, now)]
    lower.sort(key=lambda task: rank(task, now), reverse=True)
    joining = list(itertools.takewhile(lambda task: task.key == key, urgent))
    if not joining:
        return lower if len(lower) == len(running) else []
    free = speed_of(key).cap - len(running)
    return lower[: max(sum(task.pictures for task in joining) - free, 0)]


def choose(batch: Batch, tasks: Iterable[Task], now: float, speed_of: Callable[[Key], Speed]) -> list[Task]:
    """The pictures to begin now, each as its task: a task of two pictures may be in it twice."""
    ranked = sorted(tasks, key=lambda task: rank(task, now))
    if not ranked:
        return []
    key = batch.key or ranked[0].key
    speed = speed_of(key)
    running = list(batch.remaining)
    overtaken: Task | None = None
    chosen: list[Task] = []
    for task in ranked:
        if task.key != key:
            overtaken = overtaken or task
            continue
        if overtaken is not None and is_urgent(overtaken, now) and not is_urgent(task, now):
            break  # it would be put aside at once; and all that follow are no more urgent
        for _ in range(task.pictures):
            if len(running) >= speed.cap or not _may_join(task, running, overtaken, now, speed):
                break
            running.append(task.seconds)
            chosen.append(task)
    return chosen


def _may_join(task: Task, running: list[float], overtaken: Task | None, now: float, speed: Speed) -> bool:
    if overtaken is None:
        return True
    before = max(ends(running, speed.slowdown), default=0.0)
    after = max(ends([*running, task.seconds], speed.slowdown))
    slack = overtaken.due - now
    return after <= before + ROUNDING or after <= SLACK_TO_SPEND * slack


def place_free_after(
    batch: Batch, tasks: Sequence[Task], now: float, speed_of: Callable[[Key], Speed]
) -> float | None:
    """Seconds until the next of ``tasks`` leaves the queue, where nobody else comes; None where none ever will.

    It plays what will happen: the batch runs on, and whenever a picture ends ``choose`` says who begins. What will be
    put aside for others then is left out, so that it is rather too late than too early.
    """
    waiting = {task.id: task for task in tasks}
    elapsed = 0.0
    while waiting:
        chosen = choose(batch, waiting.values(), now + elapsed, speed_of)
        if any(not task.begun for task in chosen):
            return elapsed
        for task in chosen:
            left = waiting[task.id].pictures - 1
            waiting[task.id] = replace(waiting[task.id], pictures=left)
            if left == 0:
                del waiting[task.id]
            batch = Batch(task.key, (*batch.remaining, task.seconds))
        if not batch.remaining:
            if batch.key is None:
                return None
            batch = Batch()
            continue
        assert batch.key is not None, "what is drawn has a key"
        first = min(batch.remaining)
        elapsed += first * speed_of(batch.key).slowdown(len(batch.remaining))
        left_over = tuple(seconds - first for seconds in batch.remaining if seconds > first)
        batch = Batch(batch.key if left_over else None, left_over)
    return None


def batched_seconds(work: Iterable[tuple[Key, float]], speed_of: Callable[[Key], Speed]) -> float:
    """Seconds that the pictures ``work`` (key, seconds alone) will take with those of a key drawn together.

    Worked example: four pictures of 1 s, where up to two are drawn together, 1.25 times as slow as one: 4 s of work
    with a gain of 2 / 1.25 = 1.6 take 2.5 s.
    """
    items = list(work)
    pictures = Counter(key for key, _ in items)
    return math.fsum(seconds / speed_of(key).gain(pictures[key]) for key, seconds in items)
