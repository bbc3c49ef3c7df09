"""Placement: worked examples, and what holds for any pool."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagefleet_operator.plan.packing import Need, Slot
from imagefleet_operator.plan.placement import estimate, place


@pytest.mark.parametrize(
    ("spec", "measured", "files", "want"),
    [(7, 5, 100, 7), (None, 5, 100, 5), (None, None, 1000, 1300)],
    ids=["the spec says it", "it was measured", "files times 1.3"],
)
def test_memory_of_a_model(spec: int | None, measured: int | None, files: int, want: int) -> None:
    assert estimate(spec, measured, files) == want


def needs(text: str) -> list[Need]:
    """``a:60x1 b:60x1``: model a of 60 bytes that wants one copy, and so on."""
    parts = (item.replace("x", ":").split(":") for item in text.split())
    return [Need(name, int(copies), int(size)) for name, size, copies in parts]


def slots(text: str) -> list[Slot]:
    """``1:100=a,b 2:100``: worker 1 of 100 bytes that holds a and b, worker 2 that holds nothing."""
    found = []
    for item in text.split():
        head, _, held = item.partition("=")
        name, _, size = head.partition(":")
        found.append(Slot(name, int(size), frozenset(filter(None, held.split(",")))))
    return found


@pytest.mark.parametrize(
    ("models", "workers", "want", "short"),
    [
        pytest.param("a:60x1 b:60x1", "1:100 2:100", "1=a 2=b", {}, id="each on its own worker"),
        pytest.param("a:60x1 b:60x1", "1:100 2:100 3:100", "1=a 2=b 3=a", {}, id="the third fills up"),
        pytest.param("a:30x1 b:30x0", "1:100", "1=a,b", {}, id="what asks for none still fills what is free"),
        pytest.param("a:60x1 b:60x1", "1:100=b 2:100=a", "1=b 2=a", {}, id="nothing moves without need"),
        pytest.param("a:60x2", "1:100", "1=a", {"a": 1}, id="more copies than workers"),
        pytest.param("a:95x1", "1:100", "1=", {"a": 1}, id="too large for any worker"),
        pytest.param(
            "a:60x1 b:60x1", "1:100=a 2:100=a", "1=a 2=b", {}, id="a spare copy gives way to a wanted one"
        ),
        pytest.param(
            "a:60x1 b:60x0", "1:100=a 2:100=a", "1=a 2=b", {}, id="a spare copy gives way to a first one"
        ),
        pytest.param(
            "a:50x1 b:40x1 c:40x1 d:50x1",
            "1:100=b,c 2:100",
            "1=a,b 2=c,d",
            {},
            id="pins that stand in the way",
        ),
        pytest.param("a:60x1", "", "", {"a": 1}, id="no worker"),
        pytest.param("a:60x1", "1:100=gone", "1=a", {}, id="a model that is no longer named goes"),
        pytest.param(
            "a:60x0 b:60x0", "1:100", "1=", {}, id="of two that fit in turn none is in the other's way"
        ),
        pytest.param(
            "a:60x0 b:60x0 c:60x0",
            "1:100 2:100",
            "1= 2=b",
            {},
            id="one worker is left to those without a copy",
        ),
        pytest.param(
            "a:30x0 b:30x0 c:30x0 d:30x0 e:30x0 f:30x0 g:30x0",
            "1:100 2:100",
            "1=a,c 2=b,d",
            {},
            id="each worker keeps room for the one without",
        ),
        pytest.param("a:60x1 b:60x0", "1:100", "1=a", {}, id="but a promise stands"),
    ],
)
def test_placement(models: str, workers: str, want: str, short: dict[str, int]) -> None:
    placement = place(needs(models), slots(workers))
    held = {name: sorted(models) for name, models in placement.pinned.items()}
    assert held == {s.name: sorted(s.pinned) for s in slots(want.replace("=", ":1=", -1))}
    assert placement.short == short


settings.register_profile("pure", deadline=None, max_examples=60)
settings.load_profile("pure")

models_strategy = st.lists(
    st.builds(Need, st.sampled_from("abcd"), st.integers(0, 3), st.integers(1, 60)),
    unique_by=lambda n: n.model,
    max_size=4,
)
slots_strategy = st.lists(
    st.builds(
        Slot,
        st.sampled_from("1234"),
        st.integers(0, 120),
        st.frozensets(st.sampled_from("abcde"), max_size=3),
    ),
    unique_by=lambda s: s.name,
    max_size=4,
)


def used(models: list[Need], held: frozenset[str]) -> int:
    return sum(n.memory_bytes for n in models if n.model in held)


@given(models_strategy, slots_strategy)
def test_no_worker_is_ever_filled_over_its_usable_memory(models: list[Need], workers: list[Slot]) -> None:
    pinned = place(models, workers).pinned
    assert pinned.keys() == {s.name for s in workers}
    for slot in workers:
        assert used(models, pinned[slot.name]) <= slot.usable
        assert pinned[slot.name] <= {n.model for n in models}


@given(models_strategy, slots_strategy, st.randoms(use_true_random=False))
def test_the_order_of_workers_does_not_matter(models: list[Need], workers: list[Slot], rng: object) -> None:
    shuffled = list(workers)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert place(models, shuffled) == place(models, workers)


@given(models_strategy, slots_strategy)
def test_a_placement_is_stable_once_it_is_reached(models: list[Need], workers: list[Slot]) -> None:
    first = place(models, workers)
    again = place(models, [Slot(s.name, s.memory_bytes, first.pinned[s.name]) for s in workers])
    assert again == first


@given(models_strategy, slots_strategy)
def test_what_is_short_is_what_is_missing(models: list[Need], workers: list[Slot]) -> None:
    placement = place(models, workers)
    copies = {n.model: sum(n.model in held for held in placement.pinned.values()) for n in models}
    want = {n.model: n.min_resident - copies[n.model] for n in models if copies[n.model] < n.min_resident}
    assert placement.short == want


def feasible(models: list[Need], workers: list[Slot]) -> bool:
    """Whether any assignment at all gives every model its copies: by trying them all."""
    subsets = [
        frozenset(n.model for n, taken in zip(models, bits, strict=True) if taken)
        for bits in product((False, True), repeat=len(models))
    ]
    options = [[held for held in subsets if used(models, held) <= slot.usable] for slot in workers]
    return any(
        all(sum(n.model in held for held in choice) >= n.min_resident for n in models)
        for choice in product(*options)
    )


@given(
    st.lists(
        st.builds(Need, st.sampled_from("abc"), st.integers(0, 2), st.integers(1, 60)),
        unique_by=lambda n: n.model,
        max_size=3,
    ),
    st.lists(
        st.builds(
            Slot,
            st.sampled_from("123"),
            st.integers(0, 120),
            st.frozensets(st.sampled_from("abc"), max_size=2),
        ),
        unique_by=lambda s: s.name,
        max_size=3,
    ),
)
def test_every_model_gets_its_copies_where_that_is_possible_at_all(
    models: list[Need], workers: list[Slot]
) -> None:
    assert (place(models, workers).short == {}) == feasible(models, workers)


@given(models_strategy, slots_strategy)
def test_a_worker_that_joins_moves_nothing(models: list[Need], workers: list[Slot]) -> None:
    before = place(models, workers)
    settled = [Slot(s.name, s.memory_bytes, before.pinned[s.name]) for s in workers]
    after = place(models, [*settled, Slot("9", 1000)])
    if not before.short:
        for slot in settled:
            assert before.pinned[slot.name] <= after.pinned[slot.name]


@given(models_strategy, slots_strategy)
def test_a_worker_that_leaves_moves_no_wanted_copy_elsewhere(models: list[Need], workers: list[Slot]) -> None:
    settled = [Slot(s.name, s.memory_bytes, place(models, workers).pinned[s.name]) for s in workers]
    left = settled[1:]
    copies = {n.model: sum(n.model in s.pinned for s in left) for n in models}
    after = place(models, left)
    if all(copies[n.model] >= max(1, n.min_resident) for n in models):
        assert {s.name: s.pinned for s in left} == after.pinned
