"""What one part tells another, written by the one's code and read by the other's: all follow docs/contract.md."""

import argparse
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from imagefleet_operator.plan.budget import plan_budget
from imagefleet_operator.plan.policy import policy_entry
from imagefleet_operator.plan.rollout_types import Arm, Budget, Moments, NameFigures, Served
from imagefleet_operator.plan.spend import DAY
from imagefleet_operator.plan.spend_types import BudgetSpec, Counted
from imagefleet_operator.plan.types import ModelSpec, Parent
from imagefleet_operator.plan.workers import WorkerDefaults, verify_spec
from imagefleet_operator.store.counts import read_counts
from imagefleet_operator.store.figures import read_figures
from imagefleet_operator.store.records import model_record
from imagefleet_operator.store.reports import MODES as OPERATOR_MODES
from imagefleet_runtime.gateway import schemas
from imagefleet_runtime.gateway.figures import Entry, Figures, WorkerFigures
from imagefleet_runtime.gateway.quota import BudgetView
from imagefleet_runtime.gateway.resources import read_pool
from imagefleet_runtime.gateway.snapshot import Share
from imagefleet_runtime.gateway.spending import Spending
from imagefleet_runtime.worker import main
from imagefleet_runtime.worker.policy import MODES, Policy
from imagefleet_runtime.worker.verify import adapter_orders

from tests.integration.manifests import good_manifests
from tests.unit.operator import make

MODELS = [path for path in good_manifests() if path.stem.startswith("model-")]


def verified(path: Path) -> Parent[ModelSpec]:
    """A good manifest's model with a status as after its verification."""
    manifest = yaml.safe_load(path.read_text())
    adapters = [
        {"name": adapter["name"], "digest": "sha256:" + "ab" * 32}
        for adapter in manifest["spec"].get("adapters", [])
    ]
    status: dict[str, Any] = {"digest": "sha256:" + "cd" * 32, "adapters": adapters}
    metadata = {**manifest["metadata"], "namespace": "ns", "uid": "u"}
    return model_record({**manifest, "metadata": metadata, "status": status})


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_worker_takes_what_it_is_told_to_hold(path: Path) -> None:
    model = verified(path)
    assert model.spec is not None
    entry = policy_entry(model, pinned=True, memory_bytes=1, speed={"loadSeconds": 1.5})
    (taken,) = Policy.model_validate({"models": [entry]}).models
    assert (taken.path, taken.uri) == (
        model.spec.source.folder,
        model.spec.source.uri if not taken.path else None,
    )
    assert [adapter.name for adapter in taken.adapters] == list(model.spec.adapters)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_check_understands_its_command_line(path: Path) -> None:
    model = verified(path)
    job = verify_spec(model, WorkerDefaults("img"))
    assert job is not None
    assert model.spec is not None
    parser = argparse.ArgumentParser()
    main._add_verify_arguments(parser)
    found = parser.parse_args(job.arguments[1:])
    assert (found.uri, found.credentials) == (model.spec.source.uri, model.spec.source.credentials)
    orders = adapter_orders(found.adapter, found.adapter_credentials)
    assert {(order.name, order.uri, order.digest, order.credentials) for order in orders} == {
        (name, source.uri, source.digest, source.credentials) for name, source in model.spec.adapters.items()
    }


def test_the_operator_reads_what_a_gateway_counted() -> None:
    figures = Figures(wall=lambda: 1763800000.0, clock=lambda: 0.0)
    entry = ("studio", "pictures", "shapes")
    figures.keep({entry: Entry("w", frozenset({"shapes-1"}), slow_seconds=1.0)})
    drawn = WorkerFigures(run_seconds=2.0, checked=1, unsafe=1, quality=0.5)
    figures.ended(entry, "shapes-1", 200, "", seconds=1.5, units=2.0, worker=drawn, pictures=1)
    figures.attempt_failed(entry, "shapes-1", 500, "out_of_memory")
    body = json.loads(msgspec.json.encode({"pod": "gateway", "models": [], "names": figures.report()}))
    budget = {"shapes-1": Budget(requests=1, slow=1, checked=1, unsafe=1)}
    assert read_figures(body) == {
        entry: NameFigures(
            window="w",
            arms={"shapes-1": Arm(2, 1, 1, 1, 1, Moments(1), Moments(1, 0.5, 0.25))},
            short=budget,
            long=budget,
            served={"shapes-1": Served(1, 1, 1763800000.0, 1763800000.0)},
        )
    }


def test_both_know_the_same_modes() -> None:
    assert set(OPERATOR_MODES) == set(MODES)


def test_the_operator_reads_who_had_what_drawn() -> None:
    spending = Spending(wall=lambda: 1763800000.0)
    share = Share(
        "studio", "pictures", "shapes-1", 100.0, None, (), budget=BudgetView(tenants=(("acme", "Within"),))
    )
    account = spending.of_copy(share)
    assert account is not None
    account.begin(2.0)
    account.end(2.0, 1.5)
    account.begin(3.0)
    body = json.loads(msgspec.json.encode({"started": spending.started, "tenants": spending.report()}))
    key = ("shapes-1", "")
    assert read_counts(body) == (
        "1763800000.000",
        {("studio", "pictures"): Counted({key: 1.5}, {key: 3.0})},
    )


def test_a_gateway_reads_what_the_operator_says_of_a_budget() -> None:
    spec = BudgetSpec(limit=7_200.0, on_exhausted="degrade", tenants={"acme": 3_600.0})
    pool = make.pool(budget=spec, status={})
    plan = plan_budget(make.observed(pool=pool), make.NOW)
    assert plan is not None
    raw = {
        "metadata": {"name": "thumbs", "namespace": "ns"},
        "spec": {"budget": {"tenantHeader": "x-tenant", "tenants": [{"name": "acme"}]}},
        "status": plan.status,
    }
    view = read_pool(msgspec.convert(raw, schemas.Pool)).budget
    assert view == BudgetView("Within", 2.0, plan.spend.start + DAY, b"x-tenant", (("acme", "Within"),))
