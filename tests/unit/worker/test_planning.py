from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.worker.planning import (
    Candidate,
    DoesNotFit,
    LoadNext,
    State,
    crash_delay,
    memory_limit,
    plan,
    retry_delay,
)

BASE = Candidate(
    model="", pinned=False, state=State.ABSENT, memory_bytes=4, oldest=None, running=False, last_used=0.0
)


def absent(name: str, **fields: object) -> Candidate:
    return replace(BASE, model=name, **fields)  # type: ignore[arg-type]


def resident(name: str, **fields: object) -> Candidate:
    return replace(BASE, model=name, state=State.RESIDENT, **fields)  # type: ignore[arg-type]


ROWS = {
    "nothing to do without models": ([], None),
    "a model that nobody asks for stays absent": ([absent("a")], None),
    "a pinned model is loaded at once": ([absent("a", pinned=True)], LoadNext("a")),
    "a model is loaded when a request waits for it": ([absent("a", oldest=1.0)], LoadNext("a")),
    "pinned models go before asked-for ones": (
        [absent("a", oldest=1.0), absent("b", pinned=True)],
        LoadNext("b"),
    ),
    "the longest waiting request goes first": (
        [absent("a", oldest=2.0), absent("b", oldest=1.0)],
        LoadNext("b"),
    ),
    "a failed model is left alone": ([replace(absent("a", pinned=True), state=State.FAILED)], None),
    "the least recently used makes room": (
        [absent("a", oldest=1.0), resident("b", last_used=9.0), resident("c", last_used=5.0)],
        LoadNext("a", evict=("c",)),
    ),
    "as many as needed make room": (
        [absent("a", oldest=1.0, memory_bytes=9), resident("b", last_used=1.0), resident("c", last_used=2.0)],
        LoadNext("a", evict=("b", "c")),
    ),
    "one that nobody waits for goes before one with waiting requests": (
        [absent("a", oldest=1.0), resident("b", oldest=3.0, last_used=0.0), resident("c", last_used=5.0)],
        LoadNext("a", evict=("c",)),
    ),
    "a model with an older request is not evicted": (
        [absent("a", oldest=2.0, memory_bytes=8), resident("b", oldest=1.0)],
        None,
    ),
    "a model with a younger request is evicted": (
        [absent("a", oldest=1.0, memory_bytes=8), resident("b", oldest=2.0)],
        LoadNext("a", evict=("b",)),
    ),
    "a pinned model evicts one with older requests": (
        [absent("a", pinned=True, memory_bytes=8), resident("b", oldest=1.0)],
        LoadNext("a", evict=("b",)),
    ),
    "a running model is waited for": (
        [absent("a", oldest=1.0, memory_bytes=8), resident("b", running=True)],
        None,
    ),
    "a pinned model is never evicted": (
        [absent("a", oldest=1.0, memory_bytes=8), resident("b", pinned=True)],
        DoesNotFit("a", "needs 8 bytes beside 4 for pinned models; there are 10"),
    ),
    "a pinned model that can never fit is said so": (
        [absent("a", pinned=True, memory_bytes=11)],
        DoesNotFit("a", "needs 11 bytes; there are 10"),
    ),
    "one that must wait does not hold up another that fits": (
        [absent("a", oldest=1.0, memory_bytes=8), resident("b", running=True), absent("c", oldest=2.0)],
        LoadNext("c"),
    ),
    "a size that is not known yet is no obstacle": ([absent("a", oldest=1.0, memory_bytes=0)], LoadNext("a")),
}


@pytest.mark.parametrize(("candidates", "want"), ROWS.values(), ids=ROWS.keys())
def test_the_next_load(candidates: list[Candidate], want: object) -> None:
    assert plan(candidates, 10) == want


candidates = st.builds(
    Candidate,
    model=st.sampled_from("abcdef"),
    pinned=st.booleans(),
    state=st.sampled_from(State),
    memory_bytes=st.integers(0, 12),
    oldest=st.none() | st.floats(0, 9),
    running=st.booleans(),
    last_used=st.floats(0, 9),
)


@given(st.lists(candidates, max_size=6, unique_by=lambda entry: entry.model))
def test_a_load_never_exceeds_the_memory_nor_evicts_what_it_must_not(entries: list[Candidate]) -> None:
    step = plan(entries, 10)
    if not isinstance(step, LoadNext):
        return
    by_name = {entry.model: entry for entry in entries}
    victims = [by_name[name] for name in step.evict]
    assert not any(victim.pinned or victim.running for victim in victims)
    held = [e for e in entries if e.state in (State.RESIDENT, State.LOADING) and e not in victims]
    assert sum(entry.memory_bytes for entry in held) + by_name[step.model].memory_bytes <= 10


@pytest.mark.parametrize(
    ("total", "own", "others", "want"),
    [
        (80, 5, [7, 24], 49),  # the worked example
        (80, 5, [], 80),
        (80, 30, [60], 30),  # never less than its own need
        (80, 90, [], 80),  # nor more than there is
    ],
)
def test_what_an_engine_may_use(total: int, own: int, others: list[int], want: int) -> None:
    assert memory_limit(total, own, others) == want


@pytest.mark.parametrize(
    ("crashes", "want"),
    [([100.0], None), ([99.0, 100.0], None), ([98.0, 99.0, 100.0], 5.0), ([97.0, 98.0, 99.0, 100.0], 10.0)],
)
def test_an_engine_that_keeps_crashing_is_loaded_later_and_later(
    crashes: list[float], want: float | None
) -> None:
    assert crash_delay(crashes, 100.0) == want


def test_old_crashes_are_forgotten() -> None:
    assert crash_delay([1.0, 2.0, 3.0, 1000.0], 1000.0) is None


@pytest.mark.parametrize(("failures", "want"), [(1, 5.0), (2, 10.0), (6, 160.0), (7, 300.0), (10**6, 300.0)])
def test_failed_loads_are_repeated_later_and_later(failures: int, want: float) -> None:
    assert retry_delay(failures) == want
