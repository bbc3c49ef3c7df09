"""Others' policies against worked examples of their own documentation."""

import pytest
from imagefleet_operator.simulate.fleets import PEERS, by_model, joined, pool_for_each
from imagefleet_operator.simulate.peers import (
    HorizontalPodAutoscaler,
    Keda,
    KeepAlive,
    KnativePodAutoscaler,
)
from imagefleet_operator.simulate.trace import Request
from imagefleet_operator.simulate.world import Outcome, View, World


def view(now: float = 0.0, in_flight: int = 0, ready: int = 0, starting: int = 0, **fields: object) -> View:
    running = min(in_flight, ready)
    values = {
        "arrived_seconds": 0.0,
        "arrived": 0,
        "queued_seconds": 0.0,
        "queued": in_flight - running,
        "running_seconds": 0.0,
        "running": running,
        "starting": [60.0] * starting,
        "started": 0,
        "late": 0,
        "idle": (),
    }
    return View(now=now, ready=ready, **values | fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "current", "metric", "target", "want"),
    [
        # "Algorithm details": a metric of 200m with a target of 100m doubles the replicas; of 50m halves them.
        ("twice the target: twice as many", 4, 8, 1.0, 8),
        ("half the target", 4, 2, 1.0, 2),
        # "within a globally-configurable tolerance, 0.1 by default"
        ("a tenth above is within the tolerance", 10, 11, 1.0, 10),
        ("more than that is not", 10, 12, 1.0, 12),
        # `behavior`'s defaults: at most twice as many, or four more, within 15 s
        ("a burst is limited", 10, 90, 1.0, 20),
    ],
)
def test_hpa_takes_the_ratio_of_metric_and_target(
    case: str, current: int, metric: int, target: float, want: int
) -> None:
    assert HorizontalPodAutoscaler(target).decide(view(0.0, metric, current)) == want, case


def test_hpa_scales_down_after_300_s_and_never_below_one() -> None:
    hpa = HorizontalPodAutoscaler()
    assert hpa.decide(view(0.0, 8, 4)) == 8
    decisions = {now: hpa.decide(view(now, 0, 8)) for now in range(15, 600, 15)}
    assert decisions[285] == 8
    assert decisions[315] == 1


def test_keda_comes_from_zero_at_its_polling_and_goes_back_after_the_cooldown() -> None:
    keda = Keda()
    assert keda.decide(view(15.0, 3)) == 0
    assert keda.decide(view(30.0, 3)) == 1
    assert keda.decide(view(60.0, 3, 1)) == 1
    decisions = {now: keda.decide(view(now, 0, 1)) for now in range(75, 600, 15)}
    assert decisions[345] == 1
    assert decisions[360] == 0


def test_keda_wants_a_replica_for_five_messages() -> None:
    assert Keda().decide(view(30.0, 12, 1)) == 3


def kpa_after(concurrency: list[int], ready: int) -> int:
    policy = KnativePodAutoscaler(target=1.0)
    for k, in_flight in enumerate(concurrency):
        wanted = policy.decide(view(2.0 * (k + 1), in_flight, ready))
    return wanted


@pytest.mark.parametrize(
    ("case", "concurrency", "ready", "want"),
    [
        # "Autoscaling concepts", "Panic": a 6 s window; panics at 200 % of what is ready.
        ("steady: the mean of 60 s over the target", [10] * 40, 10, 10),
        ("a burst of a few seconds, twice what is ready: panic", [10] * 40 + [20] * 3, 10, 20),
        ("less than twice: the stable window only", [10] * 27 + [19] * 3, 10, 11),
        # `max-scale-down-rate: 2.0`
        ("down to half at once", [0] * 40 + [1], 10, 5),
    ],
)
def test_kpa(case: str, concurrency: list[int], ready: int, want: int) -> None:
    assert kpa_after(concurrency, ready) == want, case


def test_kpa_does_not_scale_down_in_panic() -> None:
    assert kpa_after([10] * 40 + [30] * 3 + [0] * 10, 10) == 30


def test_kpa_goes_to_zero_30_s_after_its_window_is_empty() -> None:
    policy = KnativePodAutoscaler()
    decisions = {2 * k: policy.decide(view(2.0 * k, 0 if k > 1 else 1, 1)) for k in range(1, 70)}
    assert decisions[80] == 1
    assert decisions[94] == 0


@pytest.mark.parametrize(
    ("case", "seen", "want"),
    [
        ("a request that finds none idle gets a worker", view(0.0, 3, 2), 3),
        ("one is on its way already", view(0.0, 3, 2, starting=1), 3),
        ("one is idle", view(0.0, 2, 2, idle=(5.0,)), 2),
        ("idle for ten minutes", view(0.0, 0, 2, idle=(600.0, 599.0)), 1),
    ],
)
def test_keep_alive(case: str, seen: View, want: int) -> None:
    assert KeepAlive().decide(seen) == want, case


def test_a_pool_for_each_model_starts_a_worker_for_each() -> None:
    trace = (Request(0.0, "a", 20.0), Request(1000.0, "b", 20.0))
    world = World(start_seconds=60, first_load_seconds=20, estimate_error=0.0)
    out = pool_for_each(trace, lambda: KeepAlive(), world)
    assert out.created == 2
    assert out.cold == 2
    assert sorted(out.waits) == [80.0, 80.0]


def test_joined_pools_add_up() -> None:
    one = Outcome(waits=[1.0], held=10.0, replicas=[(0.0, 1), (10.0, 0)])
    two = Outcome(waits=[2.0], held=20.0, replicas=[(5.0, 2), (15.0, 0)])
    both = joined([one, two])
    assert (both.waits, both.held) == ([1.0, 2.0], 30.0)
    assert both.replicas == [(0.0, 1), (5.0, 3), (10.0, 2), (15.0, 0)]


def test_every_peer_serves_every_request() -> None:
    trace = tuple(Request(k * 5.0, "ab"[k % 2], 20.0) for k in range(100))
    assert set(by_model(trace)) == {"a", "b"}
    for build, targets, least in PEERS.values():
        out = pool_for_each(trace, lambda b=build, t=targets[0], n=least: b(t, n), World())  # type: ignore[misc]
        assert len(out.waits) == 100
        assert max(out.waits) < 3600
