import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.gateway.loads import WorkerLoad, WorkerState
from imagefleet_runtime.gateway.resources import ModelView, Worker
from imagefleet_runtime.gateway.routing import Choice, Room, Wait, choose, draw, place, unavailable
from imagefleet_runtime.gateway.snapshot import Share, build

from tests.unit.gateway.builders import make_model, make_pool, make_worker

NOW = 1000.0


def share(*workers: Worker, view: ModelView | None = None) -> Share:
    return Share("art", "thumbs", "shapes-1", 100.0, view or make_model(), workers)


def load(work: float = 0.0, state: str = "Resident", **model: float) -> WorkerLoad:
    known = WorkerLoad()
    entry = {"model": "shapes-1", "state": state} | model
    known.observe(_state({"workSeconds": work, "models": [entry]}), NOW)
    return known


def _state(raw: dict[str, object]) -> WorkerState:
    import msgspec

    return msgspec.convert(raw, WorkerState)


def pick(
    shares: Sequence[Share],
    loads: dict[str, WorkerLoad],
    *,
    tried: Sequence[Worker] = (),
    patience: float = 30.0,
    now: float = NOW,
    seed: int = 0,
) -> Choice | None:
    return choose([shares], loads, now, lambda _: 10.0, patience, tried, random.Random(seed).random)


def picked(choice: Choice | None) -> str:
    assert choice is not None
    return choice.worker.pod


W1, W2 = make_worker("w1"), make_worker("w2")

PREFERRED: dict[str, tuple[WorkerLoad, WorkerLoad, str]] = {
    "the one with the least work left": (load(5.0), load(3.0), "w2"),
    "a busy one over one that must load first": (load(5.0), load(0.0, "Absent", loadSeconds=8), "w1"),
    "one that must load first over a very busy one": (load(20.0), load(0.0, "Absent", loadSeconds=8), "w2"),
    "one that has nearly loaded": (load(5.0), load(0.0, "Loading", loadRemainingSeconds=1), "w2"),
    "the faster one": (load(0.0, secondsPerMegapixelStep=0.5), load(0.0, secondsPerMegapixelStep=0.1), "w2"),
    "a busier one that is much faster": (
        load(0.0, secondsPerMegapixelStep=0.5),
        load(3.0, secondsPerMegapixelStep=0.1),
        "w2",
    ),
}


@pytest.mark.parametrize(("first", "second", "want"), PREFERRED.values(), ids=PREFERRED.keys())
def test_prefers(first: WorkerLoad, second: WorkerLoad, want: str) -> None:
    assert picked(pick([share(W1, W2)], {"uid-w1": first, "uid-w2": second})) == want


def test_prefers_one_whose_connections_hold() -> None:
    broken = load(0.0)
    broken.suspect(NOW)
    assert picked(pick([share(W1, W2)], {"uid-w1": broken, "uid-w2": load(100.0)})) == "w2"


def test_a_suspect_is_better_than_nobody() -> None:
    broken = load(0.0)
    broken.suspect(NOW)
    assert picked(pick([share(W1)], {"uid-w1": broken})) == "w1"


def room(seconds: float) -> WorkerLoad:
    """A worker that would have to load the model, for which something of use has to go."""
    known = load(0.0, "Absent", loadSeconds=8)
    known.room_seconds = seconds
    return known


def test_a_model_of_the_long_tail_goes_where_it_is_and_else_where_the_least_has_to_go_for_it() -> None:
    loads = {"uid-w1": room(3.0), "uid-w2": room(0.5), "uid-w3": load(9.0)}
    workers = [make_worker(name, placement=(("shapes-1", False),)) for name in ("w1", "w2", "w3")]
    assert picked(pick([share(*workers[:2])], loads)) == "w2"
    loads["uid-w3"] = load(8.0)
    assert picked(pick([share(*workers)], loads)) == "w3"


def test_a_burst_of_a_cold_model_waits_for_one_load_as_long_as_that_is_worth_it() -> None:
    workers = [make_worker(f"w{i}", placement=(("shapes-1", False),)) for i in range(4)]
    loads = {worker.uid: load(0.0, "Absent", loadSeconds=8) for worker in workers}
    went: list[str] = []
    for number in range(20):
        choice = pick([share(*workers, view=make_model(rate=0.1))], loads, seed=number)  # 1 s of work each
        assert choice is not None
        loads[choice.worker.uid].sent("shapes-1", choice.work_seconds, choice.load_seconds, NOW)
        went.append(choice.worker.pod)
    assert len(set(went[:8])) == 1, "one load, though three workers have nothing to do"
    assert len(set(went)) > 1, "as much work as a load takes waits for the first: then a second one loads it"


def test_after_an_eviction_that_nobody_told_of_the_next_reply_puts_it_right() -> None:
    workers = [make_worker(name, placement=(("shapes-1", False),)) for name in ("w1", "w2")]
    loads = {"uid-w1": load(0.0), "uid-w2": load(0.0, "Loading", loadRemainingSeconds=3)}
    assert picked(pick([share(*workers)], loads)) == "w1", "it was there when w1 last said something"
    loads["uid-w1"].hold("another", "0", NOW)  # a reply about another model
    assert picked(pick([share(*workers)], loads)) == "w2"


def test_a_choice_says_what_it_costs() -> None:
    choice = pick([share(W1)], {"uid-w1": load(0.0, "Absent", loadSeconds=8, secondsPerMegapixelStep=0.02)})
    assert choice is not None
    assert choice.work_seconds == pytest.approx(0.2)
    assert choice.load_seconds == 8.0


NOBODY: dict[str, tuple[list[Share], list[Worker]]] = {
    "no worker": ([share()], []),
    "no ImageModel": ([Share("art", "thumbs", "shapes-1", 100.0, None, (W1,))], []),
    "a stalled ImageModel": ([share(W1, view=make_model(stalled="wrong digest"))], []),
    "all tried": ([share(W1, W2)], [W1, W2]),
}


@pytest.mark.parametrize(("shares", "tried"), NOBODY.values(), ids=NOBODY.keys())
def test_nobody_to_choose(shares: list[Share], tried: list[Worker]) -> None:
    assert pick(shares, {"uid-w1": load(), "uid-w2": load()}, tried=tried) is None


def test_a_load_that_outlasts_the_wait_is_no_candidate() -> None:
    loading = {"uid-w1": load(0.0, "Loading", loadRemainingSeconds=40)}
    assert pick([share(W1)], loading, patience=30) is None
    assert picked(pick([share(W1)], loading, patience=30, now=NOW + 11)) == "w1"


def test_a_model_that_nobody_loads_is_loaded_by_asking() -> None:
    absent = {"uid-w1": load(0.0, "Absent", loadSeconds=40)}
    assert picked(pick([share(W1)], absent, patience=30)) == "w1"


def test_a_worker_whose_placement_changed_may_be_tried_again() -> None:
    before = make_worker("w1", placement=())
    assert picked(pick([share(W1)], {"uid-w1": load()}, tried=[before])) == "w1"


def test_with_equal_loads_requests_spread() -> None:
    workers = [make_worker(f"w{i}") for i in range(4)]
    loads = {worker.uid: load() for worker in workers}
    rng = random.Random(1)
    picks = Counter(
        picked(choose([[share(*workers)]], loads, NOW, lambda _: 10.0, 30, (), rng.random))
        for _ in range(400)
    )
    assert set(picks) == {worker.pod for worker in workers}
    assert min(picks.values()) > 60


def test_of_equal_loads_the_one_with_fewer_of_our_requests() -> None:
    busy, free = load(), load()
    busy.inflight = 1
    assert {picked(pick([share(W1, W2)], {"uid-w1": busy, "uid-w2": free}, seed=s)) for s in range(10)} == {
        "w2"
    }


SPLIT = {"shapes": {"shapes-1": 95.0, "shapes-2": 5.0}}


@pytest.mark.parametrize(
    ("place", "want"), [(0.0, "shapes-1"), (12.0, "shapes-1"), (95.0, "shapes-2"), (99.9, "shapes-2")]
)
def test_traffic_is_split_by_percent(place: float, want: str) -> None:
    drawn, others = draw(build([], [make_pool(offers=SPLIT)], []).find("shapes"), place)
    assert [s.model for s in drawn] == [want]
    assert [s.model for s in others] == [{"shapes-1": "shapes-2", "shapes-2": "shapes-1"}[want]]


def test_every_pool_draws_its_own_version() -> None:
    pools = [make_pool("a"), make_pool("b", offers={"shapes": {"shapes-2": 100.0}})]
    drawn, others = draw(build([], pools, []).find("shapes"), 50.0)
    assert [(s.pool, s.model) for s in drawn] == [("a", "shapes-1"), ("b", "shapes-2")]
    assert others == []


def test_the_other_version_serves_where_the_drawn_one_has_no_worker() -> None:
    snapshot = build([W1], [make_pool(offers=SPLIT)], [make_model(), make_model("shapes-2")])
    tiers = draw(snapshot.find("shapes"), 99.0)
    choice = choose(tiers, {"uid-w1": load()}, NOW, lambda _: 1.0, 30, (), random.random)
    assert choice is not None
    assert choice.share.model == "shapes-1"


PLACED: dict[str, tuple[WorkerLoad, WorkerLoad, float, str | Wait]] = {
    "the soonest of those with room": (load(3.0), load(2.0), 0.0, "w2"),
    "none where all have enough to do": (load(5.0), load(4.0), 0.0, Wait.FULL),
    "none rather than one that must load first": (
        load(5.0),
        load(0.0, "Absent", loadSeconds=30),
        0.0,
        Wait.RATHER,
    ),
    "one that must load first where that is sooner than what waits": (
        load(5.0),
        load(0.0, "Absent", loadSeconds=30),
        25.0,
        "w2",
    ),
    "one that loads already where that is sooner": (
        load(9.0),
        load(0.0, "Loading", loadRemainingSeconds=8),
        0.0,
        "w2",
    ),
}


@pytest.mark.parametrize(("first", "second", "waiting", "want"), PLACED.values(), ids=PLACED.keys())
def test_a_place_is(first: WorkerLoad, second: WorkerLoad, waiting: float, want: str | Wait) -> None:
    loads = {"uid-w1": first, "uid-w2": second}
    placed = place([[share(W1, W2)]], loads, NOW, lambda _: 10.0, 30.0, (), random.random, Room(3.0), waiting)
    assert (placed.worker.pod if isinstance(placed, Choice) else placed) == want


def test_what_waits_is_shared_by_those_that_will_do_it() -> None:
    # 40 s that wait are 20 s for each of the two that hold the model: sooner than a load of 30 s; 60 s are not.
    loads = {"uid-w1": load(5.0), "uid-w2": load(5.0), "uid-w3": load(0.0, "Absent", loadSeconds=30)}
    shares = [share(W1, W2, make_worker("w3"))]
    placed = [
        place([shares], loads, NOW, lambda _: 10.0, 30.0, (), random.random, Room(3.0), waiting)
        for waiting in (40.0, 60.0)
    ]
    assert placed[0] is Wait.RATHER
    assert picked(placed[1] if isinstance(placed[1], Choice) else None) == "w3"


def test_a_load_holds_up_no_other_model() -> None:
    """On w1 another model is loaded for requests that wait for it; w2 draws."""
    loading = WorkerLoad()
    entries = [{"model": "shapes-1", "state": "Resident"}, {"model": "other", "state": "Loading"}]
    loading.observe(_state({"workSeconds": 40.0, "readySeconds": 0.0, "models": entries}), NOW)
    loads = {"uid-w1": loading, "uid-w2": load(2.0)}
    placed = place([[share(W1, W2)]], loads, NOW, lambda _: 10.0, 30.0, (), random.random, Room(3.0))
    assert picked(placed if isinstance(placed, Choice) else None) == "w1"


def test_nobody_has_room_where_nobody_is() -> None:
    assert place([[share()]], {}, NOW, lambda _: 10.0, 30.0, (), random.random, Room(3.0)) is Wait.NOBODY


def test_the_other_version_does_not_serve_because_the_drawn_one_is_busy() -> None:
    busy, idle = share(W1), Share("art", "thumbs", "shapes-2", 5.0, make_model("shapes-2"), (W2,))
    loads = {"uid-w1": load(5.0), "uid-w2": load(0.0)}
    placed = place([[busy], [idle]], loads, NOW, lambda _: 10.0, 30.0, (), random.random, Room(3.0))
    assert placed is Wait.FULL


def test_unavailable_names_the_reason_only_if_nothing_can_serve() -> None:
    stalled = share(view=make_model(stalled="wrong digest"))
    missing = Share("art", "thumbs", "shapes-2", 5.0, None, ())
    assert unavailable([stalled, missing]) == (
        "ImageModel 'shapes-1' cannot be served: wrong digest; "
        "ImageModel 'shapes-2' does not exist in namespace 'art'"
    )
    assert unavailable([stalled, share()]) is None


numbers = st.one_of(st.none(), st.floats(), st.text(max_size=5))
states = st.sampled_from(["Absent", "Loading", "Resident", "Failed", "Melted"])


@st.composite
def fleets(draw_value: st.DrawFn) -> tuple[list[Share], dict[str, WorkerLoad], list[Worker]]:
    workers = [make_worker(f"w{i}") for i in range(draw_value(st.integers(0, 6)))]
    loads = {}
    for worker in workers:
        known = WorkerLoad()
        entry = {
            "model": "shapes-1",
            "state": draw_value(states),
            "secondsPerMegapixelStep": draw_value(numbers),
            "loadSeconds": draw_value(numbers),
            "loadRemainingSeconds": draw_value(numbers),
        }
        known.observe(_state({"workSeconds": draw_value(numbers), "models": [entry]}), NOW)
        known.report(draw_value(numbers), NOW)
        known.set_rate("shapes-1", draw_value(numbers))
        loads[worker.uid] = known
    placed = draw_value(st.lists(st.sampled_from(workers), unique=True)) if workers else []
    tried = draw_value(st.lists(st.sampled_from(workers), unique=True)) if workers else []
    return [share(*placed)], loads, tried


@given(fleets(), st.integers())
def test_only_a_candidate_is_ever_chosen(
    fleet: tuple[list[Share], dict[str, WorkerLoad], list[Worker]], seed: int
) -> None:
    shares, loads, tried = fleet
    choice = pick(shares, loads, tried=tried, seed=seed, patience=float("inf"))
    candidates = [worker for worker in shares[0].workers if worker not in tried]
    if choice is None:
        assert not candidates
    else:
        assert choice.worker in candidates
        assert choice.work_seconds >= 0
        assert choice.load_seconds >= 0
