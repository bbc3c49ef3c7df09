"""How many workers hold a model, and how far the others are."""

import pytest
from imagefleet_operator.plan.conditions import REASONS
from imagefleet_operator.plan.copies import cached, copies_status
from imagefleet_operator.plan.types import Copy, Json, ModelReport

from tests.unit.operator.make import GIB, holding

HELD = Copy(True, holding("m"), "cpu")
UNTOLD = Copy(True, None, "cpu")
ON_DEMAND = Copy(False, holding("m", "Absent", pinned=False), "cpu")
FAILED = Copy(True, holding("m", "Failed", reason="FetchFailed", message="no route"), "cpu")
WARMING = Copy(True, holding("m", "Loading", stage="warm"), "cpu")


def fetching(done: int | None = None, total: int | None = None) -> Copy:
    report: ModelReport = holding("m", "Loading", stage="fetch", fetched_bytes=done, fetch_total_bytes=total)
    return Copy(True, report, "cpu")


@pytest.mark.parametrize(
    ("copies", "want"),
    [
        pytest.param([], {"available": 0, "total": 0, "failed": 0}, id="nobody"),
        pytest.param(
            [HELD, UNTOLD, Copy(False, holding("m", pinned=False), "cpu"), ON_DEMAND, FAILED, WARMING],
            {"available": 2, "total": 5, "failed": 1},
            id="some hold it",
        ),
        pytest.param(
            [fetching(), HELD],
            {"available": 1, "total": 2, "failed": 0, "fetching": 1},
            id="one fetches it, how much is not known",
        ),
        pytest.param(
            [fetching(4 * GIB, 10 * GIB), fetching(None, 10 * GIB), fetching()],
            {
                "available": 0,
                "total": 3,
                "failed": 0,
                "fetching": 3,
                "bytesFetched": 4 * GIB,
                "bytesTotal": 20 * GIB,
            },
            id="several fetch it",
        ),
    ],
)
def test_copies_are_counted_over_all_pools(copies: list[Copy], want: Json) -> None:
    assert copies_status(copies) == want


@pytest.mark.parametrize(
    ("copies", "want"),
    [
        pytest.param([], "False NoCopies No worker holds it or should.", id="nobody"),
        pytest.param([ON_DEMAND], "False NoCopies No worker holds it or should.", id="on demand alone"),
        pytest.param([HELD, ON_DEMAND], "True Cached 1 of 1 workers hold it.", id="all that should"),
        pytest.param([HELD, WARMING], "False ModelLoading 1 of 2 workers hold it.", id="one loads"),
        pytest.param([HELD, FAILED], "False ModelLoadFailed FetchFailed: no route", id="one failed"),
        pytest.param(
            [HELD, FAILED, fetching(429, 1000)],
            "False Fetching 1 of 3 workers fetch the files: 42 % of 1000.",
            id="one fetches",
        ),
        pytest.param(
            [fetching(GIB, 6979321856)],
            "False Fetching 1 of 1 workers fetch the files: 15 % of 6.5Gi.",
            id="in readable units",
        ),
        pytest.param([fetching()], "False Fetching 1 of 1 workers fetch the files.", id="of unknown size"),
    ],
)
def test_the_condition_says_how_far_the_copies_are(copies: list[Copy], want: str) -> None:
    found = cached(copies, copies_status(copies))
    assert f"{found.status} {found.reason} {found.message}" == want
    assert found.reason in REASONS


def test_a_fetch_of_many_reports_writes_at_most_a_hundred_times() -> None:
    total = 200_000_000_000
    written = {
        copies_status([fetching(done, total)])["bytesFetched"]
        for done in range(0, total + 1, total // 10_000)
    }
    assert len(written) == 101
