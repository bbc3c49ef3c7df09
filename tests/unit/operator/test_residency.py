"""Which models are worth their memory."""

import pytest
from imagefleet_operator.plan.residency import Resident, least_valuable, most_wanted, value


def resident(model: str, seconds: float = 3.0, memory: int = 10, used: float = 0.0) -> Resident:
    return Resident(model, seconds, memory, used)


def test_value_is_what_keeping_saves_for_each_byte() -> None:
    assert value(resident("a", seconds=3.0, memory=10), 2.0) == pytest.approx(0.6)


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
