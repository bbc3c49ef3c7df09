"""Rollouts that come to their end, with and without people's help; what is shown to callers on the way."""

from __future__ import annotations

import os

import pytest

from tests.e2e.rollouts.pools import Pool, shapes_model

# Of a worker's memory, which here is the host's: two such models do not fit beside each other.
MEMORY_OF_MOST = f"{int(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') * 0.6)}"


def test_people_promote_abort_and_retry_and_the_split_is_exact(pictures: Pool) -> None:
    pictures.begin("shapes-2")
    pictures.roll("shapes-1", {"setWeight": 20}, {"pause": {}}, {"setWeight": 50}, {"pause": {}})
    pictures.wait_traffic({"shapes-2": 80, "shapes-1": 20})
    with pictures.callers() as load:
        load.wait_for_more(60)
    shares = load.served_by()
    assert shares["shapes-1"] / shares.total() == pytest.approx(0.2, abs=0.05)
    pictures.command("promote shapes 1")
    pictures.wait_traffic({"shapes-2": 50, "shapes-1": 50})
    pictures.command("abort shapes 2")
    pictures.wait_phase("Aborted")
    pictures.command("retry shapes 3")
    pictures.wait_phase("Paused")
    pictures.command("promote-full shapes 4")
    pictures.wait_served("shapes-1")
    pictures.command("promote shapes 5")
    pictures.wait(lambda: pictures.status()["command"]["outcome"] == "Refused")


def test_one_worker_without_room_for_both_moves_all_at_once(pictures: Pool) -> None:
    large = {"memory": MEMORY_OF_MOST}
    pictures.apply(shapes_model("large-1", "shapes-1", **large), shapes_model("large-2", "shapes-2", **large))
    pictures.begin("large-1")
    with pictures.callers() as load:
        load.wait_for_more(5)
        pictures.roll("large-2", {"setWeight": 10})
        pictures.wait_served("large-2")
        load.wait_for_more(5)
    assert not load.failed, "requests wait while the worker swaps"
    assert set(load.served_by()) == {"large-1", "large-2"}
