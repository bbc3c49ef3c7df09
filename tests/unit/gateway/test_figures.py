"""What is counted of each ImageModel behind a name, and what is not."""

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_runtime.gateway.figures import (
    FORMER_MODELS,
    Entry,
    Figures,
    WorkerFigures,
    entries,
    read_figures,
)
from imagefleet_runtime.gateway.resources import read_pool
from imagefleet_runtime.gateway.schemas import Pool
from imagefleet_runtime.gateway.upstream import Reply

NAME = ("art", "thumbs", "shapes")
UNITS = 10.0
PASSED = WorkerFigures(run_seconds=0.2, checked=2, unsafe=0, quality=0.5)


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Counted:
    """Figures of one name, read as the operator reads them."""

    def __init__(self, entry: Entry | None = None) -> None:
        self.wall, self.clock = Clock(1_763_800_000.0), Clock(50.0)
        self.figures = Figures(self.wall, self.clock)
        self.keep(entry or Entry(models=frozenset({"shapes-1", "shapes-2"})))

    def keep(self, entry: Entry) -> None:
        self.figures.keep({NAME: entry})

    def ends(self, status: int = 200, code: str = "", model: str = "shapes-1", **more: Any) -> None:
        fields = {"units": UNITS, "pictures": int(status == 200), "seconds": 1.0}
        self.figures.ended(NAME, model, status, code, **fields | more)

    def fails(self, status: int = 500, code: str = "engine_crashed", model: str = "shapes-1") -> None:
        self.figures.attempt_failed(NAME, model, status, code)

    def entry(self) -> dict[str, Any]:
        (entry,) = json.loads(msgspec.json.encode(self.figures.report()))
        return dict(entry)

    def of(self, account: str, model: str = "shapes-1") -> Any:
        return next((one for one in self.entry()[account] if one["model"] == model), None)


def test_the_form_is_that_of_the_contract() -> None:
    counted = Counted(Entry("2026-11-23T02:00:00.000000Z", frozenset({"shapes-1"}), slow_seconds=1.5))
    counted.ends(worker=PASSED, pictures=2)
    window = {"requests": 1, "failed": 0, "slow": 0, "checked": 2, "unsafe": 0}
    ratio = math.log(0.2 / UNITS)
    assert counted.entry() == {
        "namespace": "art",
        "pool": "thumbs",
        "name": "shapes",
        "window": "2026-11-23T02:00:00.000000Z",
        "arms": [
            {
                "model": "shapes-1",
                "requests": 1,
                "errors": 0,
                "outOfMemory": 0,
                "checked": 2,
                "unsafe": 0,
                "latency": {"count": 1, "sum": ratio, "squares": ratio * ratio},
                "quality": {"count": 1, "sum": 0.5, "squares": 0.25},
            }
        ],
        "budget": [{"model": "shapes-1", "short": window, "long": window}],
        "served": [
            {
                "model": "shapes-1",
                "requests": 1,
                "pictures": 2,
                "first": 1_763_800_000.0,
                "last": 1_763_800_000.0,
            }
        ],
    }


ENDS: dict[str, tuple[int, str, bool, bool]] = {
    "a picture": (200, "", True, False),
    "a picture that may not be shown": (400, "content_policy_violation", True, False),
    "a crash": (500, "engine_crashed", False, True),
    "no worker in time": (503, "model_loading", False, True),
    "a worker that died": (502, "worker_lost", False, True),
    "a time-out": (504, "worker_timeout", False, True),
}
UNCOUNTED: dict[str, tuple[int, str]] = {
    "a caller that left": (499, "client_closed_request"),
    "a parameter that is wrong": (400, "invalid_value"),
    "a full queue": (429, "queue_full"),
    "a body that is too large": (413, "body_too_large"),
    "a suspension": (503, "model_suspended"),
}


@pytest.mark.parametrize(("status", "code", "drawn", "failed"), ENDS.values(), ids=ENDS.keys())
def test_callers_get(status: int, code: str, drawn: bool, failed: bool) -> None:
    counted = Counted()
    counted.ends(status, code)
    assert (counted.of("arms") is not None) == drawn, "an error is an arm's by its attempt alone"
    budget = counted.of("budget")["short"]
    assert (budget["requests"], budget["failed"]) == (1, int(failed))


@pytest.mark.parametrize(("status", "code"), UNCOUNTED.values(), ids=UNCOUNTED.keys())
def test_says_nothing_of_the_model(status: int, code: str) -> None:
    counted = Counted()
    counted.ends(status, code)
    assert (counted.of("arms"), counted.of("budget"), counted.of("served")) == (None, None, None)


ATTEMPTS: dict[str, tuple[int, str, int, int]] = {
    "a crash": (500, "engine_crashed", 1, 0),
    "too little memory": (500, "out_of_memory", 1, 1),
    "a load that failed": (503, "model_failed", 1, 0),
    "a broken connection": (502, "worker_lost", 1, 0),
    "a time-out": (504, "worker_timeout", 1, 0),
    "a stack trace": (500, "", 1, 0),
    "a full queue": (429, "queue_full", 0, 0),
    "a full queue, as some proxies say it": (503, "queue_full", 0, 0),
    "draining": (503, "worker_draining", 0, 0),
    "a suspension": (503, "model_suspended", 0, 0),
    "a model that the worker may not load": (404, "model_not_allowed", 0, 0),
    "a request that is wrong": (400, "invalid_value", 0, 0),
    "a token that it does not take": (401, "invalid_token", 0, 0),
}


@pytest.mark.parametrize(("status", "code", "errors", "memory"), ATTEMPTS.values(), ids=ATTEMPTS.keys())
def test_an_attempt_that_ends_in(status: int, code: str, errors: int, memory: int) -> None:
    counted = Counted()
    counted.fails(status, code)
    counted.ends(model="shapes-2")
    arm = counted.of("arms") or {"requests": 0, "errors": 0, "outOfMemory": 0}
    assert (arm["requests"], arm["errors"], arm["outOfMemory"]) == (errors, errors, memory)
    other = counted.of("arms", "shapes-2")
    assert (other["requests"], other["errors"]) == (1, 0), "the worker that served it has no error"
    assert counted.of("budget", "shapes-2")["long"]["failed"] == 0, "the caller saw none"


def test_a_second_attempt_of_the_same_arm_is_a_request_of_its_own() -> None:
    counted = Counted()
    counted.fails()
    counted.ends()
    assert (counted.of("arms")["requests"], counted.of("arms")["errors"]) == (2, 1)
    assert counted.of("budget")["short"]["requests"] == 1


@pytest.mark.parametrize(
    ("status", "seconds", "limit", "slow"),
    [
        pytest.param(200, 1.6, 1.5, 1, id="over the SLO's latency"),
        pytest.param(200, 1.5, 1.5, 0, id="just in time"),
        pytest.param(200, 99.0, None, 0, id="no SLO"),
        pytest.param(200, None, 1.5, 0, id="a stream, or a batch: no opinion"),
        pytest.param(500, 1.6, 1.5, 0, id="a failure is not slow as well"),
        pytest.param(400, 1.6, 1.5, 0, id="nor is what was not shown"),
    ],
)
def test_slow(status: int, seconds: float | None, limit: float | None, slow: int) -> None:
    counted = Counted(Entry(slow_seconds=limit))
    code = "content_policy_violation" if status == 400 else ""
    counted.ends(status, code, seconds=seconds)
    assert counted.of("budget")["short"]["slow"] == slow


def test_a_mirrored_request_counts_in_its_arm_alone() -> None:
    counted = Counted()
    counted.ends(worker=PASSED, mirrored=True)
    assert counted.of("arms")["requests"] == 1
    assert counted.of("arms")["quality"]["count"] == 1
    assert (counted.of("budget"), counted.of("served")) == (None, None)


def test_an_answer_of_earlier_that_is_given_again_is_served_and_nothing_else() -> None:
    counted = Counted()
    counted.ends(repeated=True, pictures=2)
    assert counted.of("served")["pictures"] == 2
    assert (counted.of("arms"), counted.of("budget")) == (None, None)


def test_pictures_of_a_stream_that_was_cut_off_were_served_all_the_same() -> None:
    counted = Counted()
    counted.ends(499, "client_closed_request", pictures=1)
    assert (counted.of("served")["requests"], counted.of("served")["pictures"]) == (1, 1)
    assert counted.of("budget") is None


def test_served_has_the_first_and_the_last_time() -> None:
    counted = Counted()
    counted.ends(pictures=3)
    counted.wall.now += 60
    counted.ends(pictures=1)
    served = counted.of("served")
    assert (served["requests"], served["pictures"]) == (2, 4)
    assert (served["first"], served["last"]) == (1_763_800_000.0, 1_763_800_060.0)


def test_the_short_window_forgets_what_the_long_one_has() -> None:
    counted = Counted()
    counted.ends(500, "engine_crashed")
    counted.clock.now += 600
    counted.ends()
    budget = counted.of("budget")
    assert (budget["short"]["requests"], budget["short"]["failed"]) == (1, 0)
    assert (budget["long"]["requests"], budget["long"]["failed"]) == (2, 1)


def test_a_new_window_begins_the_arms_anew_and_nothing_else() -> None:
    models = frozenset({"shapes-1"})
    counted = Counted(Entry("one", models))
    counted.ends()
    counted.keep(Entry("one", models))
    assert counted.of("arms")["requests"] == 1
    counted.keep(Entry("two", models))
    assert counted.entry()["window"] == "two"
    assert counted.of("arms") is None
    assert counted.of("budget")["short"]["requests"] == 1
    assert counted.of("served")["requests"] == 1


def test_a_model_without_traffic_keeps_its_figures_within_the_window() -> None:
    counted = Counted(Entry("one", frozenset({"shapes-1", "shapes-2"})))
    counted.ends(model="shapes-2")
    counted.keep(Entry("one", frozenset({"shapes-1"})))
    assert counted.of("arms", "shapes-2")["requests"] == 1
    assert counted.of("served", "shapes-2")["requests"] == 1


def test_of_very_many_former_models_the_oldest_are_forgotten() -> None:
    counted = Counted()
    for number in range(FORMER_MODELS + 3):
        counted.ends(model=f"old-{number}")
        counted.keep(Entry(models=frozenset({"old-0", "shapes-1"}), slow_seconds=float(number)))
    kept = [served["model"] for served in counted.entry()["served"]]
    assert kept == ["old-0"] + [f"old-{number}" for number in range(3, FORMER_MODELS + 3)]
    assert [arm["model"] for arm in counted.entry()["arms"]] == kept
    assert [budget["model"] for budget in counted.entry()["budget"]] == kept


def test_a_name_that_is_gone_is_forgotten_and_its_late_requests_are_not_counted() -> None:
    counted = Counted()
    counted.ends()
    counted.figures.keep({})
    counted.ends()
    counted.fails()
    assert counted.figures.report() == []
    counted.keep(Entry())
    assert counted.entry()["served"] == []


HEADERS: dict[str, tuple[dict[str, str], WorkerFigures]] = {
    "all": (
        {"run-seconds": "0.2", "checked": "2", "unsafe": "1", "quality": "0.9"},
        WorkerFigures(0.2, 2, 1, 0.9),
    ),
    "none": ({}, WorkerFigures()),
    "none unsafe": ({"checked": "2"}, WorkerFigures(checked=2)),
    "NaN": (dict.fromkeys(("run-seconds", "checked", "unsafe", "quality"), "nan"), WorkerFigures()),
    "negative": (dict.fromkeys(("run-seconds", "checked", "unsafe", "quality"), "-1"), WorkerFigures()),
    "no number": (dict.fromkeys(("run-seconds", "checked", "unsafe", "quality"), "x"), WorkerFigures()),
    "infinite": ({"run-seconds": "inf", "checked": "inf"}, WorkerFigures()),
    "more unsafe than looked at": ({"checked": "1", "unsafe": "2"}, WorkerFigures()),
    "unsafe of nobody knows how many": ({"unsafe": "1"}, WorkerFigures()),
    "half a picture": ({"checked": "1.5"}, WorkerFigures()),
    "a score over 1": ({"quality": "1.01"}, WorkerFigures()),
    "the best score": ({"quality": "1"}, WorkerFigures(quality=1.0)),
    "the worst score": ({"quality": "0"}, WorkerFigures(quality=0.0)),
}


@pytest.mark.parametrize(("headers", "want"), HEADERS.values(), ids=HEADERS.keys())
def test_headers_with(headers: dict[str, str], want: WorkerFigures) -> None:
    reply = Reply(200, {f"x-imagefleet-{name}".encode(): v.encode() for name, v in headers.items()}, b"")
    assert read_figures(reply) == want


@pytest.mark.parametrize(
    ("run_seconds", "units", "count"),
    [
        pytest.param(0.2, 10.0, 1, id="measured"),
        pytest.param(None, 10.0, 0, id="not measured"),
        pytest.param(0.0, 10.0, 0, id="no time at all has no logarithm"),
        pytest.param(0.2, 0.0, 0, id="nor has no work"),
    ],
)
def test_latency_is(run_seconds: float | None, units: float, count: int) -> None:
    counted = Counted()
    counted.ends(units=units, worker=WorkerFigures(run_seconds=run_seconds))
    assert counted.of("arms")["latency"]["count"] == count
    assert counted.of("arms")["requests"] == 1


@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.sampled_from(["shapes-1", "shapes-2"]),
            st.sampled_from([(200, ""), (400, "content_policy_violation"), (500, "out_of_memory")]),
            st.integers(0, 4),
            st.floats(0.001, 100),
            st.floats(0, 400),
        ),
        max_size=40,
    )
)
def test_parts_never_exceed_their_whole(
    steps: list[tuple[bool, str, tuple[int, str], int, float, float]],
) -> None:
    counted = Counted(Entry(slow_seconds=1.0))
    for mirrored, model, (status, code), checked, seconds, wait in steps:
        counted.clock.now += wait
        if status >= 500:
            counted.fails(status, code, model)
        worker = WorkerFigures(seconds, checked, checked // 2, min(1.0, seconds))
        counted.ends(status, code, model, mirrored=mirrored, worker=worker, seconds=seconds)
    entry = counted.entry()
    assert sum(arm["requests"] for arm in entry["arms"]) == len(steps)
    for arm in entry["arms"]:
        assert arm["outOfMemory"] <= arm["errors"] <= arm["requests"]
        assert arm["latency"]["count"] <= arm["requests"] - arm["errors"]
        assert arm["unsafe"] <= arm["checked"]
        for moments in (arm["latency"], arm["quality"]):
            # Cauchy and Schwarz, with room for rounding.
            assert moments["sum"] ** 2 <= moments["count"] * moments["squares"] * (1 + 1e-9) + 1e-9
    for budget in entry["budget"]:
        for window in (budget["short"], budget["long"]):
            assert window["failed"] + window["slow"] <= window["requests"]
            assert window["unsafe"] <= window["checked"]
        assert all(budget["short"][name] <= budget["long"][name] for name in budget["short"])


def test_what_the_cluster_says_of_a_name() -> None:
    raw = {
        "metadata": {"namespace": "art", "name": "thumbs"},
        "spec": {
            "models": [
                {"name": "shapes", "model": "shapes-1", "slo": {"latencySeconds": {"p95": "1.5"}}},
                {"name": "plain", "model": "sdxl", "slo": {"latencySeconds": {"p95": "soon"}}},
                {"name": "new", "model": "shapes-1", "slo": {"successRate": "0.99"}},
            ]
        },
        "status": {
            "models": [
                {
                    "name": "shapes",
                    "traffic": [{"model": "shapes-1", "percent": 95}, {"model": "shapes-2", "percent": 5}],
                    "mirror": [{"model": "shapes-3", "percent": 10}, {"model": "shapes-4", "percent": 0}],
                    "window": "2026-11-23T02:00:00.000000Z",
                },
                {"name": "plain", "traffic": [{"model": "sdxl", "percent": 100}]},
            ]
        },
    }
    pool = read_pool(msgspec.json.decode(msgspec.json.encode(raw), type=Pool))
    assert entries([pool]) == {
        ("art", "thumbs", "shapes"): Entry(
            "2026-11-23T02:00:00.000000Z", frozenset({"shapes-1", "shapes-2", "shapes-3"}), 1.5
        ),
        ("art", "thumbs", "plain"): Entry("", frozenset({"sdxl"}), None),
        ("art", "thumbs", "new"): Entry("", frozenset({"shapes-1"}), None),
    }
