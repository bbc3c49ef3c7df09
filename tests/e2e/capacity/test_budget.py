"""Budgets: what callers see, how many workers there are, and what the pool says, on the way to the limit and at it."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import openai
import pytest

from tests.e2e.capacity.pools import Pool
from tests.e2e.images import client_of

HOUR = 3600.0
# What a worker still costs: its grace period, what it takes to be told, the operator's absence.
WORKER = {"accelerator": {"count": 0}, "maxRequestSeconds": 20}
RESERVE = 20 + 30 + 15 + 60
PLENTY = "10"


def budget(hours: str, action: str, **fields: Any) -> dict[str, Any]:
    return {"gpuHoursPerDay": hours, "onExhausted": action, "alertAt": ["1"], **fields}


def hours(seconds: float) -> str:
    return f"{seconds / HOUR:.6f}"


def spent(pool: Pool) -> float:
    """Seconds up to now: the status is written once a minute."""
    spend = pool.status()["spend"]
    since = datetime.fromisoformat(spend["countedAt"]).timestamp()
    holding = len([one for one in spend.get("workers", ()) if one["state"] == "Holding"])
    counted = float(spend["gpuHours"]) * HOUR
    return counted + holding * (time.time() - since)


def tenants_of(pool: Pool) -> list[dict[str, str]]:
    """How each tenant stands, by the spec as it is now."""
    found: list[dict[str, str]] = pool.status().get("budget", {}).get("tenants", [])
    return found


def ask(pool: Pool, **headers: str) -> tuple[int, str, dict[str, str], str]:
    """Status, error code, headers and the size of one picture of 128x128 pixels."""
    with client_of(pool.fleet.gateways()[0]) as client:
        try:
            raw = client.images.with_raw_response.generate(
                model=f"{pool.kubectl.namespace}/shapes",
                prompt="a red circle on white",
                size="128x128",
                extra_body={"seed": 1, "num_inference_steps": 3},
                extra_headers={name.replace("_", "-"): value for name, value in headers.items()},
            )
        except openai.APIStatusError as error:
            return error.status_code, str(error.code), dict(error.response.headers), ""
        return 200, "", dict(raw.headers), str(raw.parse().size)


@pytest.fixture
def served(pictures: Pool) -> Pool:
    """The pool with one worker that serves, and as much budget as it likes."""
    pictures.apply("budget", worker=WORKER, budget=budget(PLENTY, "stop"))
    pictures.wait(lambda: pictures.condition("Ready") == ("True", "Ready"), 120)
    pictures.wait(lambda: pictures.condition("WithinBudget") == ("True", "WithinBudget"))
    return pictures


def test_a_degraded_pool_draws_less_and_who_wants_no_less_is_refused(served: Pool) -> None:
    assert ask(served)[3] == "128x128"
    served.apply("budget", worker=WORKER, budget=budget("1", "degrade", reduceAt="0.001"))
    served.wait(lambda: served.condition("WithinBudget") == ("False", "BudgetDegraded"))
    served.wait(lambda: ask(served)[3] == "64x64")
    status, _, headers, _ = ask(served)
    assert (status, headers["x-imagefleet-degraded"]) == (200, "budget")
    status, code, headers, _ = ask(served, x_imagefleet_degrade="refuse")
    assert (status, code, headers["x-should-retry"]) == (429, "insufficient_quota", "false")
    assert served.condition("Ready") == ("True", "Ready")
    served.wait(lambda: "BudgetDegraded" in served.events())


def test_a_tenant_that_has_used_up_its_part_is_refused_alone(served: Pool) -> None:
    tenants = [{"name": "acme", "gpuHoursPerDay": "0.000001"}]
    limits = budget(PLENTY, "stop", tenantHeader="x-tenant", tenants=tenants)
    served.apply("budget", worker=WORKER, budget=limits)
    served.wait(lambda: tenants_of(served))
    assert ask(served, x_tenant="acme")[0] == 200, "what it was admitted with is drawn"
    served.wait(lambda: tenants_of(served) == [{"name": "acme", "state": "Exhausted"}])
    served.wait(lambda: ask(served, x_tenant="acme")[1] == "insufficient_quota")
    assert ask(served, x_tenant="others")[0] == 200
    assert "acme" in {one["name"] for one in served.status()["spend"].get("tenants", ())}
    served.wait(lambda: "TenantExhausted" in served.events())


def test_a_throttled_pool_has_fewer_workers_and_serves(served: Pool) -> None:
    limit = hours(spent(served) + 4 * RESERVE)
    served.apply("budget", worker=WORKER, replicas=2, budget=budget(limit, "throttle", reduceAt="0.001"))
    served.wait(lambda: served.condition("WithinBudget") == ("False", "BudgetThrottled"))
    served.wait(lambda: len(served.pods()) == 1)
    assert served.status()["budget"]["ceiling"] == 1
    served.wait(lambda: served.condition("Ready") == ("True", "Ready"))
    assert ask(served)[0] == 200
    assert served.kubectl.get("deployments.apps/pictures-workers")["spec"]["replicas"] == 1


def test_a_pool_serves_in_full_until_its_budget_is_used_up_and_comes_back_when_it_is_raised(
    served: Pool,
) -> None:
    assert ask(served)[0] == 200
    limit = spent(served) + RESERVE + 25
    with served.callers(2) as callers:
        served.apply("budget", worker=WORKER, budget=budget(hours(limit), "stop"))
        callers.wait_for_more(3)
        served.wait(lambda: served.condition("Ready") == ("False", "BudgetExhausted"), 90)
        served.wait(lambda: {code for _, code, _ in callers.failed} == {"insufficient_quota"})
    assert {status for status, _, _ in callers.failed} == {429}
    served.wait(lambda: served.pods() == [])
    told = served.status()
    assert (told["budget"]["state"], told["budget"]["ceiling"]) == ("Exhausted", 0)
    assert spent(served) <= limit
    served.wait(lambda: {"BudgetExhausted", "BudgetAlert"} <= served.events())
    assert "no worker until" in told["budget"]["message"]

    served.apply("budget", worker=WORKER, budget=budget(PLENTY, "stop"))
    served.wait(lambda: served.condition("Ready") == ("True", "Ready"), 120)
    assert ask(served)[0] == 200
