"""Shares of traffic: how exactly they hold, and who keeps its place."""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagefleet_runtime.gateway.resources import PoolView, Stickiness
from imagefleet_runtime.gateway.routing import draw
from imagefleet_runtime.gateway.snapshot import Route, build
from imagefleet_runtime.gateway.split import Split, sticky_place

from tests.unit.gateway.builders import make_pool

ONE_POINT = 1.0
SEEDS = st.integers(0, 2**64)


def route(*pools: PoolView) -> Route:
    return build([], pools, []).find("art/shapes")


def shares(percents: Sequence[int], **entry: object) -> PoolView:
    traffic = {f"shapes-{number}": float(percent) for number, percent in enumerate(percents)}
    return make_pool(offers={"shapes": traffic}, entry=entry)


def drawn(split: Split, to: Route) -> str:
    return draw(to, split.place(to))[0][0].model


@st.composite
def percents(draw_value: st.DrawFn, count: st.SearchStrategy[int]) -> list[int]:
    """Whole percents over 0 that sum to 100."""
    cuts = draw_value(count.flatmap(lambda n: st.sets(st.integers(1, 99), min_size=n - 1, max_size=n - 1)))
    bounds = [0, *sorted(cuts), 100]
    return [high - low for low, high in pairwise(bounds)]


def gateways_of(chance: random.Random, gateways: int, skew: float) -> list[int]:
    """Which gateway each of 1,000 requests comes to; `skew` 0: each as often as any other."""
    weights = [(number + 1) ** -skew for number in range(gateways)]
    return chance.choices(range(gateways), weights, k=1000)


@settings(max_examples=60, deadline=None)
@given(percents(st.integers(2, 5)), st.integers(1, 10), st.floats(0, 3), st.integers(0, 300), SEEDS)
def test_any_thousand_requests_hold_every_share_to_within_one_point(
    weights: list[int], gateways: int, skew: float, before: int, seed: int
) -> None:
    chance = random.Random(seed)
    to = route(shares(weights))
    splits = [Split(chance.random) for _ in range(gateways)]
    for split in splits:
        for _ in range(before):
            drawn(split, to)
    counts = Counter(drawn(splits[number], to) for number in gateways_of(chance, gateways, skew))
    for number, percent in enumerate(weights):
        assert counts[f"shapes-{number}"] / 10 == pytest.approx(percent, abs=ONE_POINT)


@settings(max_examples=60, deadline=None)
@given(
    percents(st.just(2)),
    percents(st.integers(2, 4)),
    st.integers(1, 5),
    st.floats(0, 3),
    st.integers(0, 1000),
    SEEDS,
)
def test_shares_hold_over_a_change_of_the_weights(
    first: list[int], then: list[int], gateways: int, skew: float, change: int, seed: int
) -> None:
    chance = random.Random(seed)
    splits = [Split(chance.random) for _ in range(gateways)]
    before, after = route(shares(first)), route(shares(then))
    counts: Counter[str] = Counter()
    for number, gateway in enumerate(gateways_of(chance, gateways, skew)):
        counts[drawn(splits[gateway], before if number < change else after)] += 1
    for number in range(len(then)):
        due = (first[number] * change if number < 2 else 0) + then[number] * (1000 - change)
        assert counts[f"shapes-{number}"] / 10 == pytest.approx(due / 1000, abs=ONE_POINT)


@pytest.mark.parametrize("canary", [5, 10, 20, 25, 50])
def test_of_callers_who_take_turns_both_get_the_canary(canary: int) -> None:
    to, split = route(shares([100 - canary, canary])), Split(random.Random(1).random)
    turns = Counter(number % 2 for number in range(20_000) if drawn(split, to) == "shapes-1")
    assert turns[0] == pytest.approx(turns[1], rel=0.1)


def test_two_pools_give_the_canary_to_the_same_requests() -> None:
    pools = [
        make_pool("a", {"shapes": {"shapes-1": 95.0, "shapes-2": 5.0}}),
        make_pool("b", {"shapes": {"shapes-1": 50.0, "shapes-2": 50.0}}),
    ]
    to, split = route(*pools), Split(random.Random(2).random)
    assert to.cells == ((0, 50), (50, 45), (95, 5))
    counts = Counter(tuple(share.model for share in draw(to, split.place(to))[0]) for _ in range(1000))
    assert counts["shapes-2", "shapes-1"] == 0
    assert counts["shapes-2", "shapes-2"] == pytest.approx(50, abs=2)
    assert counts["shapes-1", "shapes-2"] == pytest.approx(450, abs=2)


def test_a_single_model_gets_all() -> None:
    to, split = route(make_pool()), Split(random.Random(3).random)
    assert {drawn(split, to) for _ in range(100)} == {"shapes-1"}


def test_a_route_that_is_gone_begins_anew() -> None:
    to, chance = route(shares([50, 50])), random.Random(4)
    split = Split(chance.random)
    split.place(to)
    split.keep([to])
    state = chance.getstate()
    split.place(to)
    kept = chance.getstate()
    split.keep([])
    chance.setstate(state)
    split.place(to)
    assert chance.getstate() != kept


BY_HEADER, BY_USER = Stickiness(header=b"x-session-id"), Stickiness(user=True)


def place(stickiness: Stickiness, user: str | None = None, session: bytes | None = None) -> float:
    to = route(shares([95, 5], stickiness=stickiness))
    headers = [(b"accept", b"*/*")] + ([(b"x-session-id", session)] if session is not None else [])
    return Split(random.Random().random).place(to, user, headers)


def test_alice_has_the_place_of_the_worked_example() -> None:
    assert sticky_place(b"alice", "art/shapes") == pytest.approx(98.897, abs=0.001)
    assert (
        place(BY_USER, user="alice")
        == place(BY_HEADER, session=b"alice")
        == sticky_place(b"alice", "art/shapes")
    )


@pytest.mark.parametrize(
    ("stickiness", "sent"),
    [
        (BY_HEADER, {}),
        (BY_HEADER, {"session": b""}),
        (BY_HEADER, {"user": "alice"}),
        (BY_USER, {}),
        (BY_USER, {"user": ""}),
        (BY_USER, {"session": b"alice"}),
    ],
)
def test_without_the_value_a_place_is_dealt_out(stickiness: Stickiness, sent: dict[str, str]) -> None:
    assert len({place(stickiness, **sent) for _ in range(20)}) > 1  # type: ignore[arg-type]


@given(st.binary(min_size=1), st.integers(1, 98))
def test_who_has_the_canary_keeps_it_when_its_share_grows(value: bytes, percent: int) -> None:
    at = sticky_place(value, "art/shapes")
    models = [draw(route(shares([100 - p, p])), at)[0][0].model for p in (percent, percent + 1)]
    assert models != ["shapes-1", "shapes-0"]


def test_places_of_many_callers_are_spread_and_differ_by_name() -> None:
    places = [sticky_place(f"caller-{number}".encode(), "art/shapes") for number in range(10_000)]
    assert sum(at >= 95 for at in places) == pytest.approx(500, rel=0.2)
    assert sticky_place(b"alice", "art/other") != sticky_place(b"alice", "art/shapes")
