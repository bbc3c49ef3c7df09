"""What scaling has learned, as a status keeps it."""

import json
from random import Random
from typing import Any

import pytest
from imagefleet_operator.api.scaling_status import MAX_LEARNED
from imagefleet_operator.plan.conditions import timestamp
from imagefleet_operator.plan.forecast import Forecaster
from imagefleet_operator.plan.learned import VERSION, WRITE_SECONDS, kept, restore

DAY = 86_400


def seasoned(days: int, step: int = 300) -> Forecaster:
    """One that has seen days with a busy noon."""
    chance, forecaster = Random(1), Forecaster(60.0)
    for at in range(0, days * DAY, step):
        noon = abs(at % DAY - DAY / 2) < 7_200
        forecaster.observe(float(at), (5 if noon else 1) * step * (0.9 + 0.2 * chance.random()))
    return forecaster


def test_a_new_forecaster_goes_on_where_the_old_one_was() -> None:
    old, new, now = seasoned(8), Forecaster(60.0), 8.0 * DAY
    written = kept(None, old, 1.25, 0.0, now)
    assert written is not None
    assert restore(written, new) == 1.25
    assert new.expected(now, now + DAY) == pytest.approx(old.expected(now, now + DAY), rel=0.01)
    assert new.learned() == old.learned()
    assert new.observe(now + 300.0, 300.0).deviation > 0


def test_what_is_kept_is_bounded() -> None:
    written = kept(None, seasoned(8), 1.234567, 0.0, 8.0 * DAY)
    assert written is not None
    assert len(written["text"]) < MAX_LEARNED / 2


def test_it_is_written_seldom_and_only_where_it_changed() -> None:
    forecaster = Forecaster(60.0)
    assert kept(None, forecaster, 2.0, 100.0, 99.0 + WRITE_SECONDS) is None
    first = kept(None, forecaster, 2.0, 100.0, 100.0 + WRITE_SECONDS)
    assert first is not None
    assert kept(first, forecaster, 3.0, 100.0, 99.0 + 2 * WRITE_SECONDS) == first
    assert kept(first, forecaster, 2.0, 100.0, 1e6) == first
    assert kept(first, forecaster, 3.0, 100.0, 1e6) != first


GOOD = {"caution": 1.0, **Forecaster(60.0).learned()}


@pytest.mark.parametrize(
    "told",
    [
        None,
        {},
        {"version": VERSION + 1, "time": timestamp(0), "text": json.dumps(GOOD)},
        *(
            {"version": VERSION, "time": timestamp(0), "text": text}
            for text in (
                "",
                "[]",
                json.dumps(GOOD | {"caution": float("nan")}),
                json.dumps(GOOD | {"patterns": ["1,2", ""]}),
                json.dumps(GOOD | {"means": [[1.0]]}),
                json.dumps(GOOD | {"spread": 1}),
                json.dumps(GOOD | {"spread": [[float("inf")] * 3] * 5}),
            )
        ),
    ],
)
def test_what_cannot_be_read_is_not_learned(told: Any) -> None:
    assert restore(told, Forecaster(60.0)) is None
