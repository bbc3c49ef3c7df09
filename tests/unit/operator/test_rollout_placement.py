"""Where canaries, experiments' and shadows' models go."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_operator.plan.packing import Slot
from imagefleet_operator.plan.rollout_placement import Layout, Room, copies_of, lay_out
from imagefleet_operator.plan.rollout_state import EntryState, Reason, Rollout, Trial
from imagefleet_operator.plan.rollout_types import Experiment, Shadow
from imagefleet_operator.plan.types import PoolModel

SIZES = {"a": 60, "b": 60, "c": 60, "small": 10, "large": 200}


@pytest.mark.parametrize(
    ("weight", "copies", "want"),
    [(5, 4, (1, 4)), (50, 3, (2, 2)), (100, 3, (3, 1)), (0, 1, (1, 1)), (25, 4, (1, 3)), (1, 200, (2, 198))],
)
def test_copies_at_a_weight(weight: int, copies: int, want: tuple[int, int]) -> None:
    assert copies_of(weight, copies) == want


def workers(text: str) -> list[Slot]:
    """``a,b - c``: three workers of 100 bytes (90 usable) that hold so much of it."""
    held = (frozenset(filter(None, part.strip("-").split(","))) for part in text.split())
    return [Slot(f"w{number}", 100, models) for number, models in enumerate(held)]


def laid(layout: Layout) -> str:
    pinned = layout.placement.pinned
    return " ".join(",".join(sorted(pinned[name])) or "-" for name in sorted(pinned))


def moving(to: str, copies: int = 1, **fields: object) -> tuple[PoolModel, EntryState]:
    """An entry on its way from ``a``."""
    rollout = replace(Rollout(to, 0.0, step=1, steps=3), **fields)  # type: ignore[arg-type]
    return PoolModel("x", to, min_resident=copies), EntryState("x", "a", rollout)


@pytest.mark.parametrize(
    ("entry", "slots", "want", "room"),
    [
        pytest.param(moving("b"), "a -", "a b", Room.BESIDE, id="a free worker takes the canary"),
        pytest.param(moving("small"), "a", "a,small", Room.BESIDE, id="both fit on one worker"),
        pytest.param(moving("b", 2), "a a", "a b", Room.BESIDE, id="a worker is swapped"),
        pytest.param(moving("b", 3, weight=5), "a a a", "a a b", Room.BESIDE, id="one of three is swapped"),
        pytest.param(
            moving("b", 4, weight=75),
            "a a a b",
            "a b b b",
            Room.BESIDE,
            id="at three quarters, three of four",
        ),
        pytest.param(moving("b"), "a", "a", Room.INSTEAD, id="one worker has no room for both"),
        pytest.param(
            moving("b", weight=5, all_at_once=True), "a", "b", None, id="then the canary takes its place"
        ),
        pytest.param(moving("large"), "a -", "a a", Room.NOWHERE, id="no worker is large enough"),
        pytest.param(moving("unverified"), "a -", "a a", Room.NOWHERE, id="nobody may hold it"),
        pytest.param(
            moving("b", step=0, reason=Reason.BURNING),
            "a -",
            "a a",
            Room.BESIDE,
            id="not before a calmer time",
        ),
        pytest.param(moving("b", 2, step=4), "a b", "a b", Room.BESIDE, id="promoted, half of the workers"),
        pytest.param(
            moving("b", 2, step=4), "a b -", "a b b", Room.BESIDE, id="promoted, all where there is room"
        ),
        pytest.param(
            moving("b", 4, step=4, weight=10),
            "a a a b",
            "a a b b",
            Room.BESIDE,
            id="promoted from a low weight",
        ),
    ],
)
def test_a_canary(entry: tuple[PoolModel, EntryState], slots: str, want: str, room: Room | None) -> None:
    layout = lay_out([entry], SIZES.get, workers(slots))
    assert sorted(laid(layout).split()) == sorted(want.split())
    assert layout.room.get("x") is room


OTHER = (PoolModel("y", "c"), EntryState("y", "c"))


@pytest.mark.parametrize(
    ("slots", "want", "room"),
    [
        pytest.param("a c", "a c", Room.INSTEAD, id="another entry's model keeps its worker"),
        pytest.param("a c -", "a b c", Room.BESIDE, id="with a worker more"),
        pytest.param("- -", "a c", Room.INSTEAD, id="before anything is loaded"),
    ],
)
def test_a_canary_takes_nothing_from_other_entries(slots: str, want: str, room: Room) -> None:
    layout = lay_out([moving("b"), OTHER], SIZES.get, workers(slots))
    assert sorted(laid(layout).split()) == want.split()
    assert layout.room["x"] is room


EXPERIMENT = PoolModel("x", "a", experiments=(Experiment("e", (("b", 20),)),))
SHADOWED = PoolModel("x", "a", shadow=Shadow("b", 20))


@pytest.mark.parametrize("entry", [EXPERIMENT, SHADOWED], ids=["an experiment's", "a shadow's"])
@pytest.mark.parametrize(
    ("slots", "want", "left_out"), [("a -", "a b", set()), ("a", "a", {"b"})], ids=["with room", "without"]
)
def test_another_model(entry: PoolModel, slots: str, want: str, left_out: set[str]) -> None:
    layout = lay_out([(entry, EntryState("x", "a"))], SIZES.get, workers(slots))
    assert laid(layout) == want
    assert layout.left_out == left_out


def test_the_model_of_an_experiment_that_is_over_is_not_held() -> None:
    over = EntryState("x", "a", trials=(Trial("e", "Ended"),))
    assert laid(lay_out([(EXPERIMENT, over)], SIZES.get, workers("a b"))) == "a a"


def test_a_model_that_is_loaded_on_demand_is_held_while_others_stand_beside_it() -> None:
    layout = lay_out([moving("b", 0)], SIZES.get, workers("- -"))
    assert sorted(laid(layout).split()) == ["a", "b"]
    assert layout.wanted == {"x": 1}


@given(
    copies=st.integers(0, 4),
    weight=st.integers(0, 100),
    step=st.integers(0, 4),
    at_once=st.booleans(),
    held=st.lists(st.sampled_from(("a", "b", "c", "-", "small")), max_size=5),
)
def test_a_layout_stays_once_it_is_reached_and_nobody_loses_for_it(
    copies: int, weight: int, step: int, at_once: bool, held: list[str]
) -> None:
    entries = [moving("b", copies, weight=weight, step=step, all_at_once=at_once), OTHER]
    slots = workers(" ".join(held))
    first = lay_out(entries, SIZES.get, slots)
    again = lay_out(entries, SIZES.get, [replace(s, pinned=first.placement.pinned[s.name]) for s in slots])
    assert again == first
    without = lay_out([(entries[0][0], EntryState("x", "a")), OTHER], SIZES.get, slots)
    assert first.placement.short.get("c", 0) <= without.placement.short.get("c", 0)
