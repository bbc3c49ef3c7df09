"""The kill switch needs no operator."""

from __future__ import annotations

import time

from tests.e2e.rollouts.pools import Pool


def test_suspending_stops_generation_everywhere_within_two_seconds_though_the_operator_is_down(
    pictures: Pool,
) -> None:
    pictures.begin("shapes-2")
    pictures.fleet.scale("operator", 0)
    with pictures.callers() as load:
        load.wait_for_more(10)
        pictures.serve("shapes-2", suspend=True)
        thrown = time.time()
        load.wait_for_more(50)
        pictures.fleet.scale("operator", 1)
        pictures.wait(lambda: pictures.condition("Ready") == ("False", "Suspended"))
    served = [one for one in load.outcomes if one.status == 200]
    assert max(one.at for one in served) < thrown + 2, "an operator that starts does not reopen it either"
    assert {one.code for one in load.outcomes if one.status != 200} == {"model_suspended"}

    def recorded() -> bool:
        record = pictures.suspensions("shapes-2")[-1]
        assert (record["reason"], "until" in record) == ("Requested", False)
        return bool(record["requests"] >= len(served))

    pictures.wait(recorded)
    pictures.serve("shapes-2")
    with pictures.callers() as load:
        pictures.wait(lambda: load.served_by())
