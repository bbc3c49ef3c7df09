import math
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
    giving_way,
    memory_limit,
    next_turn,
    plan,
    retry_delay,
    room_seconds,
)

BASE = Candidate(
    model="", pinned=False, state=State.ABSENT, memory_bytes=4, oldest=None, running=False, last_used=0.0
)


def absent(name: str, **fields: object) -> Candidate:
    return replace(BASE, model=name, **fields)  # type: ignore[arg-type]


def resident(name: str, **fields: object) -> Candidate:
    return replace(BASE, model=name, state=State.RESIDENT, **fields)  # type: ignore[arg-type]


NOW = 100.0
# Loaded at 95 in 5 s: it stays until 105 while it has work.
NEW: dict[str, object] = {"loaded": 95.0, "load_seconds": 5.0}


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
    "the least valuable makes room": (
        [
            absent("a", oldest=1.0),
            resident("b", demand=5.0, load_seconds=1.0, last_used=1.0),
            resident("c", demand=1.0, load_seconds=4.0, last_used=9.0),
        ],
        LoadNext("a", evict=("c",)),
    ),
    "of equal use the larger makes room": (
        [
            absent("a", oldest=1.0),
            resident("b", demand=1.0, memory_bytes=3),
            resident("c", demand=1.0, memory_bytes=6),
        ],
        LoadNext("a", evict=("c",)),
    ),
    "of those that nobody used lately the least recently used makes room": (
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
    "one with waiting requests stays for its tenure": (
        [absent("a", oldest=1.0, memory_bytes=8), resident("b", oldest=2.0, **NEW)],
        None,
    ),
    "one without work may go at once": (
        [absent("a", oldest=1.0, memory_bytes=8), resident("b", **NEW)],
        LoadNext("a", evict=("b",)),
    ),
    "a pinned model waits for no tenure": (
        [absent("a", pinned=True, memory_bytes=8), resident("b", oldest=2.0, **NEW)],
        LoadNext("a", evict=("b",)),
    ),
    "not one that is leaving, which finishes what it has": (
        [absent("a", pinned=True, memory_bytes=8), resident("b", oldest=2.0, leaving=True)],
        None,
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
    assert plan(candidates, 10, NOW) == want


WAYS = {
    "nobody waits": ([resident("b", running=True)], {}),
    "there is room": ([absent("a", oldest=1.0), resident("b", running=True)], {}),
    "one that runs begins nothing that came later": (
        [absent("a", oldest=1.0, memory_bytes=8), resident("b", running=True, oldest=2.0)],
        {"b": 1.0},
    ),
    "what it had before is drawn first": (
        [absent("a", oldest=2.0, memory_bytes=8), resident("b", running=True, oldest=1.0)],
        {},
    ),
    "not before its tenure ends": (
        [absent("a", oldest=1.0, memory_bytes=8), resident("b", running=True, **NEW)],
        {},
    ),
    "the least valuable of those that run": (
        [
            absent("a", oldest=1.0),
            resident("b", running=True, demand=5.0),
            resident("c", running=True, demand=1.0),
        ],
        {"c": 1.0},
    ),
    "for a pinned model nothing more is begun": (
        [absent("a", pinned=True, memory_bytes=8), resident("b", running=True, oldest=1.0)],
        {"b": -math.inf},
    ),
    "one that is leaving finishes what it has": (
        [absent("a", pinned=True, memory_bytes=8), resident("b", running=True, leaving=True)],
        {},
    ),
    "a pinned one gives no way": ([absent("a", oldest=1.0, memory_bytes=8), resident("b", pinned=True)], {}),
    "where all together would not do nobody does": (
        [
            absent("a", oldest=3.0, memory_bytes=9),
            resident("b", running=True, oldest=4.0),
            resident("c", running=True, oldest=1.0),
        ],
        {},
    ),
}


@pytest.mark.parametrize(("candidates", "want"), WAYS.values(), ids=WAYS.keys())
def test_who_gives_way(candidates: list[Candidate], want: dict[str, float]) -> None:
    assert giving_way(candidates, 10, NOW) == want


@pytest.mark.parametrize(
    ("candidates", "want"),
    [
        ([resident("b", running=True, **NEW)], None),
        ([absent("a", oldest=1.0, memory_bytes=8), resident("b", running=True, **NEW)], 105.0),
        ([absent("a", oldest=1.0, memory_bytes=8), resident("b", running=True, loaded=1.0)], None),
    ],
    ids=["nobody waits", "when its tenure ends", "it has ended"],
)
def test_when_it_is_another_models_turn(candidates: list[Candidate], want: float | None) -> None:
    assert next_turn(candidates, NOW) == want


candidates = st.builds(
    Candidate,
    model=st.sampled_from("abcdef"),
    pinned=st.booleans(),
    state=st.sampled_from(State),
    memory_bytes=st.integers(0, 12),
    oldest=st.none() | st.floats(0, 9),
    running=st.booleans(),
    last_used=st.floats(0, 9),
    demand=st.floats(0, 9),
    load_seconds=st.floats(0, 60),
    loaded=st.floats(0, NOW),
    leaving=st.booleans(),
)


@given(st.lists(candidates, max_size=6, unique_by=lambda entry: entry.model))
def test_a_load_never_exceeds_the_memory_nor_evicts_what_it_must_not(entries: list[Candidate]) -> None:
    step = plan(entries, 10, NOW)
    if not isinstance(step, LoadNext):
        return
    by_name = {entry.model: entry for entry in entries}
    victims = [by_name[name] for name in step.evict]
    assert not any(victim.pinned or victim.running for victim in victims)
    held = [e for e in entries if e.state in (State.RESIDENT, State.LOADING) and e not in victims]
    assert sum(entry.memory_bytes for entry in held) + by_name[step.model].memory_bytes <= 10


@pytest.mark.parametrize(
    ("candidates", "want"),
    [
        ([resident("b", demand=2.0, load_seconds=3.0)], 0.0),
        ([absent("a"), resident("b", demand=2.0, load_seconds=3.0)], 0.0),
        ([absent("a", memory_bytes=8), resident("b", demand=2.0, load_seconds=3.0)], 2.0),
        ([absent("a", memory_bytes=8), resident("b", demand=9.0, load_seconds=3.0)], 3.0),
        ([absent("a"), resident("b", demand=9.0), resident("c", demand=0.5)], 0.5),
        ([absent("a", memory_bytes=8), resident("b", pinned=True, demand=9.0)], 0.0),
    ],
    ids=[
        "nothing is absent",
        "there is room",
        "what it drew lately",
        "at most its load",
        "of two the least valuable",
        "a pinned one never goes",
    ],
)
def test_what_room_for_one_more_costs(candidates: list[Candidate], want: float) -> None:
    assert room_seconds(candidates, 10) == want


@given(st.lists(candidates, max_size=6, unique_by=lambda entry: entry.model))
def test_only_what_may_be_evicted_gives_way_and_that_makes_room(entries: list[Candidate]) -> None:
    ways = giving_way(entries, 10, NOW)
    by_name = {entry.model: entry for entry in entries}
    assert all(by_name[name].busy and not by_name[name].pinned for name in ways)
    left = [replace(e, running=False) if e.model in ways else e for e in entries]
    while isinstance(step := plan(left, 10, NOW), DoesNotFit):
        # It has failed, and the next one has its turn.
        left = [e for e in left if e.model != step.model]
    assert not ways or isinstance(step, LoadNext)


def test_room_is_made_for_a_model_behind_one_that_does_not_fit() -> None:
    running = resident("d", memory_bytes=4, running=True)
    behind = absent("b", pinned=True, memory_bytes=0)
    entries = [absent("a", pinned=True, memory_bytes=4), behind, resident("c", pinned=True, memory_bytes=7)]
    assert giving_way([*entries, running], 10, NOW).keys() == {"d"}


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
