"""Which models are worth their memory."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_operator.plan.residency import (
    Candidate,
    Host,
    Resident,
    arrange,
    least_valuable,
    most_wanted,
    value,
)


def resident(model: str, seconds: float = 3.0, memory: int = 10, used: float = 0.0) -> Resident:
    return Resident(model, seconds, memory, used)


def test_value_is_what_keeping_saves_for_each_byte() -> None:
    assert value(resident("a", seconds=3.0, memory=10), 2.0) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("case", "residents", "want"),
    [
        ("the one that is asked for least", [resident("hot"), resident("cold")], "cold"),
        ("the larger of two that are asked for alike", [resident("hot", memory=40), resident("warm")], "hot"),
        ("the one that loads faster", [resident("hot", seconds=0.1), resident("warm")], "hot"),
        (
            "of two that nobody asks for, the one unused for longest",
            [resident("x", used=2), resident("y", used=1)],
            "y",
        ),
    ],
)
def test_what_is_evicted(case: str, residents: list[Resident], want: str) -> None:
    assert least_valuable(residents, {"hot": 10.0, "warm": 6.0, "cold": 1.0}) == want, case


@pytest.mark.parametrize(
    ("case", "workers", "want"),
    [
        ("nobody holds any: the hottest", [], "hot"),
        ("the hottest has a copy, and is still asked for more per copy", [{"hot"}], "hot"),
        ("the hottest has two", [{"hot"}, {"hot"}], "warm"),
    ],
)
def test_what_a_new_worker_loads(case: str, workers: list[set[str]], want: str) -> None:
    assert most_wanted({"hot": 10.0, "warm": 4.0}, workers) == want, case


def test_a_new_worker_loads_nothing_where_nothing_was_asked_for() -> None:
    assert most_wanted({}, []) is None


def candidate(model: str, demand: float, least: int = 0, memory: int = 10) -> Candidate:
    return Candidate(model, demand, 3.0, memory, least)


HOT, WARM, COLD = candidate("hot", 10), candidate("warm", 4), candidate("cold", 1)


@pytest.mark.parametrize(
    ("case", "candidates", "hosts", "want"),
    [
        (
            "the second copy of the hottest is worth more than the first of the coldest",
            [HOT, WARM, COLD],
            [Host("w1", 20), Host("w2", 20)],
            [{"hot", "warm"}, {"hot", "warm"}],
        ),
        (
            "what must be resident is, whatever it is worth",
            [HOT, WARM, candidate("cold", 0, least=1)],
            [Host("w1", 10), Host("w2", 10)],
            [{"cold"}, {"hot"}],
        ),
        (
            "a model stays where it is",
            [HOT, WARM],
            [Host("w1", 10, frozenset({"warm"})), Host("w2", 10)],
            [{"warm"}, {"hot"}],
        ),
        (
            "a little more demand moves nothing",
            [candidate("a", 1.4), candidate("b", 1.0)],
            [Host("w1", 10, frozenset({"b"}))],
            [{"b"}],
        ),
        (
            "half as much again does",
            [candidate("a", 1.6), candidate("b", 1.0)],
            [Host("w1", 10, frozenset({"b"}))],
            [{"a"}],
        ),
        ("nobody asks for it", [candidate("a", 0)], [Host("w1", 10)], [set()]),
        ("it fits nowhere", [candidate("a", 5, least=1, memory=11)], [Host("w1", 10)], [set()]),
    ],
)
def test_which_models_workers_hold(
    case: str, candidates: list[Candidate], hosts: list[Host], want: list[set[str]]
) -> None:
    assert list(arrange(candidates, hosts).values()) == want, case


models = st.lists(
    st.builds(
        Candidate,
        st.sampled_from("abcdefgh"),
        st.floats(0, 100),
        st.floats(0.1, 60),
        st.integers(1, 60),
        st.integers(0, 3),
    ),
    max_size=8,
    unique_by=lambda c: c.model,
)
workers = st.lists(st.integers(0, 100), max_size=6).map(
    lambda sizes: [Host(f"w{k}", size) for k, size in enumerate(sizes)]
)


@given(candidates=models, hosts=workers)
def test_no_worker_is_filled_over_its_memory(candidates: list[Candidate], hosts: list[Host]) -> None:
    sizes = {c.model: c.memory_bytes for c in candidates}
    held = arrange(candidates, hosts)
    assert all(sum(sizes[m] for m in held[h.name]) <= h.usable_bytes for h in hosts)


@given(candidates=models, hosts=workers, noise=st.lists(st.floats(0.85, 1.15), min_size=8, max_size=8))
def test_demand_that_wavers_moves_no_model_of_equal_size(
    candidates: list[Candidate], hosts: list[Host], noise: list[float]
) -> None:
    alike = [replace(c, memory_bytes=10, min_resident=0) for c in candidates]
    first = arrange(alike, hosts)
    settled = [replace(h, resident=first[h.name]) for h in hosts]
    wavering = [replace(c, demand=c.demand * by) for c, by in zip(alike, noise, strict=False)]
    assert arrange(wavering, settled) == first
