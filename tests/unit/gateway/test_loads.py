from typing import Any

import msgspec
import pytest
from imagefleet_runtime.gateway.loads import NEUTRAL_RATE, Loads, WorkerLoad, WorkerState

from tests.unit.gateway.builders import make_model, make_worker

NOW = 100.0


def state(**model: Any) -> WorkerState:
    return msgspec.convert({"workSeconds": 4.0, "models": [{"model": "shapes-1"} | model]}, WorkerState)


def test_reported_work_shrinks_with_time_to_nothing() -> None:
    load = WorkerLoad()
    load.report("10", now=100.0)
    assert [load.work_left(now) for now in (100.0, 104.0, 120.0)] == [10.0, 6.0, 0.0]


def test_what_is_sent_adds_to_what_is_left() -> None:
    load = WorkerLoad()
    load.report("10", now=100.0)
    load.add(5.0, now=104.0)
    assert load.work_left(104.0) == 11.0


def test_a_report_counts_everything_sent_before_it() -> None:
    load = WorkerLoad()
    load.add(50.0, now=100.0)
    load.report("7", now=101.0)
    assert load.work_left(101.0) == 7.0


@pytest.mark.parametrize("header", [None, "", "nan", "-1", "inf", "soon"])
def test_a_report_that_is_no_number_is_no_opinion(header: str | None) -> None:
    load = WorkerLoad()
    load.report("10", now=100.0)
    load.report(header, now=100.0)
    load.set_rate("shapes-1", header)
    assert load.work_left(100.0) == 10.0
    assert load.rate(make_model(rate=None)) == NEUTRAL_RATE


def test_the_rate_is_the_workers_then_the_models_then_neutral() -> None:
    load = WorkerLoad()
    assert load.rate(make_model(rate=None)) == NEUTRAL_RATE
    assert load.rate(make_model(rate=0.02)) == 0.02
    load.set_rate("shapes-1", "0.03")
    assert load.rate(make_model(rate=0.02)) == 0.03


WAITS: dict[str, tuple[dict[str, Any] | None, bool, float]] = {
    "resident": ({"state": "Resident", "loadSeconds": 9}, True, 0.0),
    "loading, as long as the worker says": ({"state": "Loading", "loadRemainingSeconds": 7}, True, 7.0),
    "loading, nobody knows how long": ({"state": "Loading"}, True, 0.0),
    "absent, loads as fast as measured there": ({"state": "Absent", "loadSeconds": 9}, False, 9.0),
    "absent, loads as fast as measured elsewhere": ({"state": "Absent"}, False, 12.0),
    "failed is absent, though pinned": ({"state": "Failed"}, True, 12.0),
    "pinned and not asked yet counts as resident": (None, True, 0.0),
    "on demand and not asked yet counts as absent": (None, False, 12.0),
}


@pytest.mark.parametrize(("known", "pinned", "want"), WAITS.values(), ids=WAITS.keys())
def test_wait_for_a_model(known: dict[str, Any] | None, pinned: bool, want: float) -> None:
    load = WorkerLoad()
    if known is not None:
        load.observe(state(**known), now=100.0)
    assert load.load_wait(make_model(load_seconds=12.0), pinned, now=100.0) == want


def test_a_request_that_starts_a_load_is_followed_by_others_that_share_it() -> None:
    load = WorkerLoad()
    load.sent("shapes-1", work_seconds=1.0, load_seconds=10.0, now=100.0)
    assert load.work_left(100.0) == 11.0
    assert load.load_wait(make_model(), False, now=104.0) == 6.0
    assert load.inflight == 1


def test_what_waits_for_a_load_is_at_hand_for_its_own_model_alone() -> None:
    load = WorkerLoad()
    load.sent("resident", work_seconds=2.0, load_seconds=0.0, now=100.0)
    load.sent("shapes-1", work_seconds=1.0, load_seconds=10.0, now=100.0)
    assert load.work_left(100.0) == 13.0
    assert load.at_hand("resident", wait=0.0, now=100.0) == 2.0
    assert load.at_hand("shapes-1", wait=10.0, now=100.0) == 3.0
    assert load.at_hand("other", wait=20.0, now=100.0) == 2.0
    load.ended("shapes-1", work_seconds=1.0, load_seconds=10.0, undone=1.0, now=100.0)
    assert load.at_hand("shapes-1", wait=10.0, now=100.0) == 2.0
    assert load.inflight == 1


READY: dict[str, tuple[Any, float]] = {
    "as the worker says": ("4", 4.0),
    "all, where it does not say": (None, 10.0),
    "all, where it cannot be": ("11", 10.0),
    "all, where it is no number": ("nan", 10.0),
}


@pytest.mark.parametrize(("header", "want"), READY.values(), ids=READY.keys())
def test_what_is_ready_of_the_work_left_is(header: Any, want: float) -> None:
    load = WorkerLoad()
    load.report("10", now=100.0, ready=header)
    assert load.ready_left(100.0) == want
    assert [load.ready_left(now) for now in (102.0, 200.0)] == [want - 2, 0.0]


def test_what_was_sent_while_a_worker_was_asked_is_not_forgotten() -> None:
    load = WorkerLoad()
    load.sent("shapes-1", work_seconds=2.0, load_seconds=0.0, now=100.0)
    load.observe(state(), now=100.0, missed=2.0)
    assert load.work_left(100.0) == 6.0


def test_workers_that_left_are_forgotten_and_those_that_stay_are_not() -> None:
    loads = Loads()
    stays, leaves = make_worker("w1"), make_worker("w2")
    loads.keep([stays, leaves])
    for worker in (stays, leaves):
        loads[worker.uid].report("5", now=100.0)
    loads.keep([stays])
    loads.keep([stays, leaves])
    assert loads[stays.uid].work_left(100.0) == 5.0
    assert loads[leaves.uid].work_left(100.0) == 0.0


def test_a_reply_tells_what_the_worker_holds_by_now() -> None:
    load = WorkerLoad()
    for name in ("kept", "evicted"):
        load.loading(name, 0.0, NOW)
    load.hold("kept,coming=12.5", None, NOW + 1)
    assert load.load_remaining("kept", NOW + 1) == 0.0
    assert load.load_remaining("evicted", NOW + 1) is None
    assert load.load_remaining("coming", NOW + 1) == 12.5


def test_what_was_sent_for_a_moment_ago_may_yet_come() -> None:
    load = WorkerLoad()
    load.sent("cold", 1.0, 10.0, NOW)
    load.hold("hot", None, NOW + 1)
    assert load.load_remaining("cold", NOW + 1) == 9.0
    load.hold("hot", None, NOW + 11)
    assert load.load_remaining("cold", NOW + 11) is None, "by now it would have come"


@pytest.mark.parametrize("header", [None, "", "x=nan,=3,,y=no"], ids=["not said", "nothing", "not readable"])
def test_what_cannot_be_read_does_no_harm(header: str | None) -> None:
    load = WorkerLoad()
    load.loading("a", 0.0, NOW)
    load.hold(header, "nan", NOW)
    assert load.load_remaining("a", NOW) == (0.0 if header is None else None)
    assert load.room_seconds == 0.0


def test_a_load_waits_for_those_that_are_under_way() -> None:
    load = WorkerLoad()
    load.sent("first", 1.0, 12.0, NOW)
    assert load.load_wait(make_model("second", load_seconds=10.0), False, NOW + 2) == 20.0
    load.hold("first", None, NOW + 2)
    assert load.load_wait(make_model("second", load_seconds=10.0), False, NOW + 2) == 10.0
