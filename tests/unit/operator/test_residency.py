"""Which models are worth their memory."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_operator.plan.packing import Need, Outlook, Slot
from imagefleet_operator.plan.placement import place
from imagefleet_operator.plan.residency import Resident, least_valuable, most_wanted, of_copy, value


def resident(model: str, seconds: float = 3.0, memory: int = 10, used: float = 0.0) -> Resident:
    return Resident(model, seconds, memory, used)


def test_value_is_what_keeping_saves_for_each_byte() -> None:
    assert value(2.0, 3.0, 10) == pytest.approx(0.6)


@pytest.mark.parametrize(("number", "want"), [(1, 12.0), (2, 6.0), (3, 2.0), (4, 1.0)])
def test_each_further_copy_is_worth_less(number: int, want: float) -> None:
    assert of_copy(12.0, number) == pytest.approx(want)


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


def need(model: str, demand: float, least: int = 0, memory: int = 10, *, moved: bool = False) -> Need:
    """A model that takes 3 s to load."""
    return Need(model, least, memory, Outlook(demand, 3.0, moved))


def slots(text: str, size: int = 20) -> list[Slot]:
    """``a,b -``: two workers, the first of which holds a and b, with so many usable bytes each."""
    held = [frozenset(filter(None, part.strip("-").split(","))) for part in text.split()]
    return [Slot(f"w{at}", -(-size * 10 // 9), models) for at, models in enumerate(held)]


def held(needs: list[Need], workers: list[Slot]) -> str:
    pinned = place(needs, workers).pinned
    return " ".join(",".join(sorted(pinned[name])) or "-" for name in sorted(pinned))


HOT, WARM, COLD = need("hot", 40), need("warm", 16), need("cold", 4)


@pytest.mark.parametrize(
    ("needs", "workers", "want"),
    [
        pytest.param(
            [HOT, WARM, need("unasked", 0)],
            slots("unasked,warm hot,unasked"),
            "hot,warm hot",
            id="the second copy of the hottest before a model that nobody asks for, which has room to be loaded",
        ),
        pytest.param(
            [HOT, WARM, need("x", 0, least=1)],
            slots("- -", 10),
            "x -",
            id="what must be resident is, whatever it is worth, and the others take turns",
        ),
        pytest.param([HOT, WARM], slots("warm -", 10), "warm hot", id="a model stays where it is"),
        pytest.param(
            [need("a", 7), need("b", 5, least=1), need("c", 0, least=1)],
            slots("b,c b"),
            "b,c a,b",
            id="room that is free is filled",
        ),
        pytest.param(
            [need("a", 14, 1), need("b", 10, 1)],
            slots("a b b", 10),
            "a b b",
            id="a little more demand moves nothing",
        ),
        pytest.param(
            [need("a", 16, 1), need("b", 10, 1)], slots("a b b", 10), "a b a", id="half as much again does"
        ),
        pytest.param(
            [need("a", 16, 1, moved=True), need("b", 10, 1)],
            slots("a b b", 10),
            "a b b",
            id="not one that was moved a moment ago",
        ),
        pytest.param(
            [need("a", 16, 1), need("b", 10, 1, moved=True)],
            slots("a b b", 10),
            "a b b",
            id="nor in the place of one that was",
        ),
        pytest.param(
            [need("a", 5, 1), need("b", 0.1, 1)],
            slots("a b b", 10),
            "a b b",
            id="what was asked for less than a load takes moves nothing",
        ),
        pytest.param(
            [need("a", 30), need("b", 1), need("c", 1)],
            slots("- -", 10),
            "- a",
            id="those without a copy are left a worker to take turns on",
        ),
        pytest.param(
            [need("a", 9), need("b", 8), need("c", 7)],
            slots("a b -", 10),
            "a b c",
            id="where all have room nothing is left free",
        ),
        pytest.param([HOT, need("large", 50, memory=90)], slots("hot", 20), "hot", id="it fits nowhere"),
        pytest.param(
            [need("a", 9), need("b", 0)], slots("- -", 20), "a,b a,b", id="spare memory is filled as ever"
        ),
    ],
)
def test_which_models_workers_hold(needs: list[Need], workers: list[Slot], want: str) -> None:
    assert held(needs, workers) == want


def test_a_long_tail_takes_turns_in_what_the_hot_models_leave() -> None:
    needs = [need(f"m{at:02}", 100 / at) for at in range(1, 13)]
    placement = place(needs, slots("- - -", 30))
    copies = [sum(n.model in models for models in placement.pinned.values()) for n in needs]
    assert copies[0] >= 2, "the hottest is on several workers"
    assert copies == sorted(copies, reverse=True), "and no model on more than a hotter one"
    assert all(len(models) <= 2 for models in placement.pinned.values()), "each worker has room for another"


models = st.lists(
    st.builds(
        Need,
        st.sampled_from("abcdefgh"),
        st.integers(0, 3),
        st.integers(1, 60),
        st.builds(Outlook, st.just(0.0) | st.floats(0.1, 100), st.floats(0.1, 60), st.booleans()),
    ),
    max_size=8,
    unique_by=lambda n: n.model,
)
workers = st.lists(
    st.tuples(st.integers(0, 110), st.frozensets(st.sampled_from("abcdefgh"), max_size=4)), max_size=6
).map(lambda found: [Slot(f"w{at}", size, pinned) for at, (size, pinned) in enumerate(found)])


@given(models, workers)
def test_no_worker_is_filled_over_its_memory(needs: list[Need], hosts: list[Slot]) -> None:
    sizes = {n.model: n.memory_bytes for n in needs}
    pinned = place(needs, hosts).pinned
    assert all(sum(sizes[m] for m in pinned[h.name]) <= h.usable for h in hosts)


@given(models, workers)
def test_demand_takes_no_copy_that_is_asked_for(needs: list[Need], hosts: list[Slot]) -> None:
    without = [replace(n, outlook=None) for n in needs]
    assert bool(place(needs, hosts).short) == bool(place(without, hosts).short)


@given(models, workers, st.randoms(use_true_random=False))
def test_the_order_of_workers_does_not_matter(needs: list[Need], hosts: list[Slot], rng: object) -> None:
    shuffled = list(hosts)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert place(needs, shuffled) == place(needs, hosts)


@given(models, workers)
def test_a_placement_is_stable_once_it_is_reached(needs: list[Need], hosts: list[Slot]) -> None:
    first = place(needs, hosts)
    assert place(needs, [replace(h, pinned=first.pinned[h.name]) for h in hosts]) == first


@given(models, workers)
def test_what_has_no_copy_can_be_loaded_where_the_promises_leave_room(
    needs: list[Need], hosts: list[Slot]
) -> None:
    pinned = place(needs, hosts).pinned
    sizes = {n.model: n.memory_bytes for n in needs}
    copies = {n.model: sum(n.model in held for held in pinned.values()) for n in needs}
    promised = any(n.min_resident for n in needs)
    for n in needs:
        room = max((h.usable - sum(sizes[m] for m in pinned[h.name]) for h in hosts), default=0)
        fits = n.memory_bytes <= max((h.usable for h in hosts), default=0)
        assert copies[n.model] or promised or not fits or n.memory_bytes <= room


@given(models, workers, st.lists(st.floats(0.9, 1.1), min_size=8, max_size=8))
def test_demand_that_wavers_moves_no_model_of_equal_size(
    needs: list[Need], hosts: list[Slot], noise: list[float]
) -> None:
    def wavering(n: Need, by: float) -> Need:
        known = n.outlook or Outlook()
        return replace(n, memory_bytes=10, min_resident=0, outlook=replace(known, demand=known.demand * by))

    alike = [wavering(n, 1.0) for n in needs]
    first = place(alike, hosts)
    settled = [replace(h, pinned=first.pinned[h.name]) for h in hosts]
    assert place([wavering(n, by) for n, by in zip(needs, noise, strict=False)], settled) == first
