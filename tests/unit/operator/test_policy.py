"""What a worker is told, and in which order."""

from dataclasses import replace

import pytest
from imagefleet_operator.plan.cluster_types import Role
from imagefleet_operator.plan.policy import (
    DONE_COST,
    Annotate,
    Cost,
    Put,
    Step,
    accelerator,
    annotated,
    placement_text,
    policy_entry,
    policy_hash,
    steps,
)
from imagefleet_operator.plan.types import Device, Json, SourceSpec, Worker

from tests.unit.operator.make import DIGEST, described, holding, model, pod, report


def entry(name: str, *, pinned: bool = True) -> Json:
    return policy_entry(model(name), pinned=pinned, memory_bytes=1, speed={})


A, B = entry("a"), entry("b")
ON_A = '{"a":{"pinned":true}}'
ON_B = '{"b":{"pinned":true}}'
ON_BOTH = '{"a":{"pinned":true},"b":{"pinned":true}}'


def holds(names: str, shown: str, told: tuple[Json, ...] | None) -> Worker:
    models = [holding(name) for name in names]
    return Worker(pod(placement=shown), report(*models), None, None if told is None else policy_hash(told))


@pytest.mark.parametrize(
    ("worker", "policy", "want"),
    [
        pytest.param(holds("a", ON_A, (A,)), (A,), [], id="all is well"),
        pytest.param(holds("", "", None), (A,), ["put a", ON_A], id="added: the worker first"),
        pytest.param(holds("ab", ON_BOTH, (A, B)), (A,), [ON_A, "put a"], id="removed: the annotation first"),
        pytest.param(holds("a", ON_A, (A,)), (B,), ["{}", "put b", ON_B], id="exchanged: both"),
        pytest.param(
            holds("a", ON_A, None), (A,), ["put a"], id="after a restart of the operator it is told again"
        ),
        pytest.param(
            holds("", ON_A, (A,)), (A,), ["put a"], id="after a restart of the worker it is told again"
        ),
        pytest.param(holds("a", "", (A,)), (A,), [ON_A], id="the annotation was lost"),
        pytest.param(holds("", "", ()), (), [], id="nothing to hold needs no annotation"),
        pytest.param(holds("a", "no json", (A,)), (A,), [ON_A], id="the annotation was spoilt"),
        pytest.param(
            holds("a", ON_A, (A,)),
            (entry("a", pinned=False),),
            ["put a", '{"a":{"pinned":false}}'],
            id="no longer pinned",
        ),
    ],
)
def test_steps(worker: Worker, policy: tuple[Json, ...], want: list[str]) -> None:
    told = [
        step.placement if isinstance(step, Annotate) else "put " + "".join(e["model"] for e in step.policy)
        for step in steps(worker, policy)
        if not isinstance(step, Cost)
    ]
    assert told == want


@pytest.mark.parametrize(
    ("role", "cost", "want"),
    [
        (Role.WARM, 0, [Annotate(None), Put((A,), policy_hash((A,)))]),
        (Role.LEAVING, 0, [Annotate(None)]),
        (Role.DONE, 0, [Annotate(None), Cost(DONE_COST)]),
        (Role.LEAVING, DONE_COST, [Annotate(None), Cost(0)]),
    ],
    ids=["warm", "leaving", "done", "not done after all"],
)
def test_a_worker_without_requests_has_no_annotation_and_keeps_what_it_holds(
    role: Role, cost: int, want: list[Step]
) -> None:
    worker = holds("b", '{"b":{"pinned":true}}', ())
    aside = replace(worker, role=role, pod=replace(worker.pod, deletion_cost=cost))
    assert list(steps(aside, (A,))) == want


def test_a_worker_that_is_taken_back_is_no_longer_the_first_to_go() -> None:
    worker = holds("a", ON_A, (A,))
    back = replace(worker, pod=replace(worker.pod, deletion_cost=DONE_COST))
    assert steps(back, (A,)) == (Cost(0),)


def test_changed_limits_are_told_and_measured_speeds_are_not() -> None:
    worker = holds("a", ON_A, (A,))
    limits, speed = {**A, "limits": {"maxSteps": 3}}, {**A, "loadSeconds": 2.0}
    assert steps(worker, (limits,)) == (Put((limits,), policy_hash((limits,))),)
    assert steps(worker, (speed,)) == ()


def test_an_entry_carries_the_verified_digest_and_what_was_measured() -> None:
    made = policy_entry(
        model("a"),
        pinned=True,
        memory_bytes=5,
        speed={"accelerator": "cpu", "loadSeconds": 1.7, "memory": "1Gi"},
    )
    assert made == {
        "model": "a",
        "path": "/models/a",
        "digest": DIGEST,
        "pinned": True,
        "pipeline": {"dtype": "auto"},
        "defaults": {},
        "limits": {},
        "memoryBytes": 5,
        "loadSeconds": 1.7,
    }


def test_an_entry_of_a_model_from_elsewhere_says_whence_and_with_what_to_fetch_it() -> None:
    adapters = {
        "pixel": SourceSpec("s3://loras/pixel", digest="sha256:given", secret="bucket"),
        "ink": SourceSpec("pvc://loras/ink", "/pvc/loras/ink", "loras"),
        "chalk": SourceSpec("gs://loras/chalk"),
    }
    verified = [{"name": name, "digest": f"sha256:{name}"} for name in adapters]
    found = described(
        model("a", adapters=verified),
        source=SourceSpec("hf://a/b@c", secret="hub"),
        adapters=adapters,
        sizes=("512x512",),
        capabilities=("inpainting",),
    )
    made = policy_entry(found, pinned=True, memory_bytes=5, speed={})
    assert "path" not in made
    assert {key: made[key] for key in ("uri", "credentials", "sizes", "capabilities", "adapters")} == {
        "uri": "hf://a/b@c",
        "credentials": "/secrets/hub",
        "sizes": ["512x512"],
        "capabilities": ["inpainting"],
        "adapters": [
            {
                "name": "pixel",
                "uri": "s3://loras/pixel",
                "credentials": "/secrets/bucket",
                "digest": "sha256:pixel",
            },
            {"name": "ink", "path": "/pvc/loras/ink", "digest": "sha256:ink"},
            {"name": "chalk", "uri": "gs://loras/chalk", "digest": "sha256:chalk"},
        ],
    }


def test_annotations_read_back_as_they_were_written() -> None:
    placement = {"b": True, "a": False}
    assert annotated(placement_text(placement)) == placement
    assert annotated("[]") == annotated("") == annotated('{"a": 1}') == {}


def test_the_accelerator_is_the_first_devices_or_the_cpu() -> None:
    assert accelerator(report()) == "cpu"
    assert accelerator(replace(report(), devices=(Device("NVIDIA-H200"),))) == "NVIDIA-H200"
