"""`behavior` of autoscaling/v2. Rows with a source are examples of Kubernetes' own documentation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_operator.plan.behavior import KUBERNETES, Behavior, Limit, Past, Rules, limited

PODS_4 = Limit("Pods", 4, 60)
PERCENT_10 = Limit("Percent", 10, 60)


def down(current: int, wanted: int, *policies: Limit, select: str = "Max", past: Past | None = None) -> int:
    rules = Rules(0.0, policies, select)  # type: ignore[arg-type]
    return limited(Behavior(Rules(), rules), past or Past(), wanted, current, 100.0)[0]


def up(current: int, wanted: int, *policies: Limit, select: str = "Max", past: Past | None = None) -> int:
    rules = Rules(0.0, policies, select)  # type: ignore[arg-type]
    return limited(Behavior(rules, Rules()), past or Past(), wanted, current, 100.0)[0]


@pytest.mark.parametrize(
    ("case", "current", "want"),
    [
        # Horizontal Pod Autoscaling, "Scaling policies": "80 replicas ... 8 ... the next iteration 72: 10 % is 7.2,
        # rounded up to 8 ... at 40 or less: 4 replicas a minute".
        ("ten percent is the larger change", 80, 72),
        ("ten percent of 72 is 7.2, rounded up to 8", 72, 64),
        ("from 40 on it is four pods", 40, 36),
        ("four pods of six", 6, 2),
    ],
)
def test_down_by_the_larger_of_two_policies(case: str, current: int, want: int) -> None:
    assert down(current, 1, PODS_4, PERCENT_10) == want, case


@pytest.mark.parametrize(
    ("case", "got", "want"),
    [
        ("Min takes the smaller change", down(80, 1, PODS_4, PERCENT_10, select="Min"), 76),
        ("Disabled changes nothing", down(80, 1, PODS_4, select="Disabled"), 80),
        ("no policy, no limit", down(80, 1), 1),
        ("four pods were taken within the minute", down(76, 1, PODS_4, past=Past((), ((70.0, -4),))), 76),
        ("that was over a minute ago", down(76, 1, PODS_4, past=Past((), ((30.0, -4),))), 72),
        ("up to twice as many", up(3, 50, Limit("Percent", 100, 15)), 6),
        ("up to four more", up(1, 50, Limit("Percent", 100, 15), Limit("Pods", 4, 15)), 5),
        ("never beyond what is wanted", up(3, 4, Limit("Percent", 100, 15)), 4),
    ],
)
def test_limits(case: str, got: int, want: int) -> None:
    assert got == want, case


def test_down_only_as_far_as_was_wanted_throughout_the_window() -> None:
    past = Past(((0.0, 8),))
    assert limited(KUBERNETES, past, 5, 10, 60.0)[0] == 8
    assert limited(KUBERNETES, past, 5, 10, 301.0)[0] == 5


def test_up_by_the_defaults_of_kubernetes_is_the_larger_of_twice_and_four_more() -> None:
    assert limited(KUBERNETES, Past(), 30, 10, 0.0)[0] == 20
    assert limited(KUBERNETES, Past(), 30, 2, 0.0)[0] == 6


def test_a_change_within_the_tolerance_is_not_made() -> None:
    behavior = Behavior(Rules(tolerance=0.1), Rules(tolerance=0.1))
    assert limited(behavior, Past(), 11, 10, 0.0)[0] == 10
    assert limited(behavior, Past(), 12, 10, 0.0)[0] == 12


@given(
    wanted=st.lists(st.integers(0, 100), min_size=5, max_size=40),
    pods=st.integers(1, 10),
    period=st.sampled_from([15.0, 60.0, 300.0]),
)
def test_within_any_period_no_more_changes_than_allowed(wanted: list[int], pods: int, period: float) -> None:
    behavior = Behavior(
        Rules(policies=(Limit("Pods", pods, period),)), Rules(policies=(Limit("Pods", pods, period),))
    )
    past, current, changes = Past(), 10, []
    for k, want in enumerate(wanted):
        allowed, past = limited(behavior, past, want, current, k * 15.0)
        changes.append((k * 15.0, allowed - current))
        current = allowed
    for at, _ in changes:
        recent = [c for t, c in changes if at - period < t <= at]
        assert sum(c for c in recent if c > 0) <= pods
        assert -sum(c for c in recent if c < 0) <= pods
