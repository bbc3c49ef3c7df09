"""Which worker holds which models, at scale: what a placement costs in CPU time, and what by demand keeps in memory.

The demand is by Zipf's law, the models' sizes and loads are drawn from a few that are common. The baseline is the
placement without an opinion on demand, on the same pool.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from imagefleet_operator.plan.packing import Need, Outlook, Slot
from imagefleet_operator.plan.placement import Placement, place

from bench.report import figure, progress

MODELS = int(os.environ.get("MODELS", "300"))
WORKERS = int(os.environ.get("WORKERS", "50"))
ROUNDS = int(os.environ.get("ROUNDS", "10"))
GIB = 2**30


def pool(random: Random) -> tuple[list[Need], list[Slot]]:
    """Models of 4 to 24 GiB, a few of which must be resident, and workers of 80 GiB."""
    needs = [
        Need(
            f"m{at:04}",
            int(at % 15 == 0),
            random.choice((4, 7, 12, 24)) * GIB,
            Outlook(3000 / (at + 1), random.choice((3.0, 8.0, 20.0))),
        )
        for at in range(MODELS)
    ]
    random.shuffle(needs)  # without an opinion the order of the spec decides
    return needs, [Slot(f"w{at:04}", 80 * GIB) for at in range(WORKERS)]


def seconds(needs: Sequence[Need], slots: Sequence[Slot]) -> tuple[float, Placement]:
    """The least CPU time of several placements: the others were disturbed."""
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        placed = place(needs, slots)
        times.append(time.process_time() - started)
    return min(times), placed


def held(placed: Placement, needs: Sequence[Need]) -> float:
    """The share of the demand that is for models with a copy."""
    there = frozenset[str]().union(*placed.pinned.values())
    demand = {n.model: n.outlook.demand for n in needs if n.outlook is not None}
    return sum(seconds for model, seconds in demand.items() if model in there) / sum(demand.values())


def main() -> None:
    """Print the figures."""
    progress(f"{MODELS} models on {WORKERS} workers")
    needs, slots = pool(Random(1))
    without = [replace(n, outlook=None) for n in needs]
    cold, placed = seconds(needs, slots)
    cold_without, placed_without = seconds(without, slots)
    figure("placement_from_nothing", cold, "CPU seconds", cold_without)
    settled, again = seconds(needs, [replace(s, pinned=placed.pinned[s.name]) for s in slots])
    settled_without, _ = seconds(without, [replace(s, pinned=placed_without.pinned[s.name]) for s in slots])
    figure("placement_that_stays", settled, "CPU seconds", settled_without)
    assert again == placed, "a placement that is reached stays"
    figure("demand_for_resident_models", held(placed, needs), "share", held(placed_without, needs))


if __name__ == "__main__":
    main()
