"""When a request that is turned away is worth sending again."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.gateway.estimate import retry_after
from imagefleet_runtime.gateway.loads import WorkerLoad
from imagefleet_runtime.gateway.resources import Scaling
from imagefleet_runtime.gateway.snapshot import Share

from tests.unit.gateway.builders import make_model, make_worker
from tests.unit.gateway.test_routing import load, share

NOW, WALL = 1000.0, 1_700_000_000.0
W1, W2 = make_worker("w1"), make_worker("w2")


def scaled(base: Share, **scaling: float) -> Share:
    return dataclasses.replace(base, scaling=Scaling(**scaling))


def loads(*known: WorkerLoad) -> dict[str, WorkerLoad]:
    return {f"uid-w{number}": one for number, one in enumerate(known, 1)}


CASES: dict[str, tuple[Share, dict[str, WorkerLoad], float, int]] = {
    "the model's measured load time": (share(view=make_model(load_seconds=12.2)), {}, 0.0, 13),
    "a default where none was measured": (share(view=make_model(load_seconds=None)), {}, 0.0, 30),
    "the shortest load under way": (
        share(W1, W2),
        loads(load(0, "Loading", loadRemainingSeconds=50), load(0, "Loading", loadRemainingSeconds=41.5)),
        0.0,
        42,
    ),
    "and what waits for it": (share(W1), loads(load(0, "Loading", loadRemainingSeconds=41.5)), 10.0, 52),
    "two minutes at most": (share(view=make_model(load_seconds=500)), {}, 0.0, 120),
    "a second at least": (share(view=make_model(load_seconds=0.1)), {}, 0.0, 1),
    "what two workers have to do and what waits": (share(W1, W2), loads(load(10), load(10)), 40.0, 30),
    "sooner with a third one that is expected": (
        scaled(share(W1, W2), expected_at=WALL + 12),
        loads(load(10), load(10)),
        40.0,
        24,
    ),
    "no sooner with one that comes when all is done": (
        scaled(share(W1, W2), expected_at=WALL + 60),
        loads(load(10), load(10)),
        40.0,
        30,
    ),
    "when the first worker is expected": (scaled(share(), expected_at=WALL + 70), {}, 5.0, 75),
    "a start and a load where there is no worker": (scaled(share(), start_seconds=41.5), {}, 0.0, 54),
    "no start where a worker only has to load it": (
        scaled(share(W1), start_seconds=41.5),
        loads(load(0, "Absent")),
        0.0,
        12,
    ),
    "nothing of what was expected in the past": (scaled(share(), expected_at=WALL - 5), {}, 0.0, 12),
}


@pytest.mark.parametrize(("wanted", "known", "held", "want"), CASES.values(), ids=CASES.keys())
def test_retry_after_is(wanted: Share, known: dict[str, WorkerLoad], held: float, want: int) -> None:
    assert retry_after([wanted], known, NOW, WALL, held) == want


@given(
    st.lists(st.floats(0, 1e6), max_size=4),
    st.floats(0, 1e6),
    st.one_of(st.none(), st.floats(-1e4, 1e4)),
    st.floats(0, 1e4),
)
def test_it_is_never_out_of_bounds_and_more_work_never_makes_it_sooner(
    left: list[float], held: float, expected: float | None, more: float
) -> None:
    workers = [make_worker(f"w{number}") for number in range(1, len(left) + 1)]
    wanted = dataclasses.replace(
        share(*workers), scaling=Scaling(expected_at=None if expected is None else WALL + expected)
    )
    known = loads(*(load(work) for work in left))
    soon = retry_after([wanted], known, NOW, WALL, held)
    assert 1 <= soon <= retry_after([wanted], known, NOW, WALL, held + more) <= 120
