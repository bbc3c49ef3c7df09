import json
from typing import Any

import msgspec
import pytest
from imagefleet_runtime.gateway import resources, schemas

from tests.unit.gateway.builders import make_model, make_pool, make_worker

PLACEMENT = '{"shapes-1": {"pinned": true}, "sdxl": {"pinned": false}}'


def pod(**changes: Any) -> schemas.Pod:
    raw: dict[str, Any] = {
        "metadata": {
            "name": "w1",
            "namespace": "art",
            "uid": "uid-w1",
            "labels": {"imagefleet.dev/pool": "thumbs"},
            "annotations": {"imagefleet.dev/placement": PLACEMENT},
        },
        "spec": {"containers": [{"name": "worker", "ports": [{"name": "http", "containerPort": 8001}]}]},
        "status": {"podIP": "10.0.0.7", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    for part, fields in changes.items():
        raw[part] |= fields
    return msgspec.convert(raw, schemas.Pod)


def test_reads_a_worker() -> None:
    want = make_worker(host="10.0.0.7", port=8001, placement=(("sdxl", False), ("shapes-1", True)))
    assert resources.read_worker(pod()) == want


def test_a_pod_without_a_named_port_has_the_workers() -> None:
    worker = resources.read_worker(pod(spec={"containers": [{"name": "worker"}]}))
    assert worker is not None
    assert worker.port == 8000


NOT_WORKERS: dict[str, dict[str, Any]] = {
    "not ready": {"status": {"conditions": [{"type": "Ready", "status": "False"}]}},
    "without conditions": {"status": {"conditions": None}},
    "without an address": {"status": {"podIP": None}},
    "being deleted": {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}},
    "of no pool": {"metadata": {"labels": {}}},
}


@pytest.mark.parametrize("changes", NOT_WORKERS.values(), ids=NOT_WORKERS.keys())
def test_no_worker_in_a_pod(changes: dict[str, Any]) -> None:
    assert resources.read_worker(pod(**changes)) is None


@pytest.mark.parametrize("annotation", [None, "", "{", "[]", '{"a": 1}', '{"a": null}'])
def test_a_placement_that_cannot_be_read_places_nothing(annotation: str | None) -> None:
    assert resources.read_placement(annotation) == ()


def pool(
    status: Any, entry: dict[str, Any] | None = None, *, suspend: bool = False, **spec: Any
) -> resources.PoolView:
    raw = {
        "metadata": {"name": "thumbs", "namespace": "art", "creationTimestamp": "2023-11-14T22:13:20Z"},
        "spec": {
            "models": [{"name": "shapes", "model": "shapes-1", "minResident": 1} | (entry or {})],
            "suspend": suspend,
            **spec,
        },
        "status": status,
    }
    return resources.read_pool(msgspec.convert(raw, schemas.Pool))


def test_before_its_first_status_a_pools_spec_gets_all_traffic() -> None:
    assert pool(None) == make_pool()


def test_a_pools_tier_says_whether_its_requests_may_wait() -> None:
    assert pool(None, tier="batch") == make_pool(batch=True)
    assert pool(None, tier="interactive") == make_pool(batch=False)


def test_status_splits_a_pools_traffic() -> None:
    traffic = [
        {"model": "shapes-1", "percent": 95},
        {"model": "shapes-2", "percent": 5},
        {"model": "shapes-3", "percent": 0},
    ]
    status = {"models": [{"name": "shapes", "traffic": traffic}, {"name": "gone", "traffic": traffic}]}
    assert pool(status) == make_pool(offers={"shapes": {"shapes-1": 95.0, "shapes-2": 5.0}})


def suspension(**fields: Any) -> dict[str, Any]:
    return {
        "name": "shapes",
        "model": "shapes-2",
        "reason": "Unsafe",
        "since": "2026-11-23T02:00:00Z",
    } | fields


FULL = [{"model": "shapes-1", "percent": 100}]
SUSPENSIONS: dict[str, tuple[resources.PoolView, dict[str, Any]]] = {
    "of the pool": (pool(None, suspend=True), {"suspended": True}),
    "of the entry": (pool(None, entry={"suspend": True}), {"suspended": True}),
    "of one model": (
        pool({"models": [{"name": "shapes", "traffic": FULL}], "suspensions": [suspension()]}),
        {"suspended_models": ("shapes-2",)},
    ),
    "that has ended": (pool({"suspensions": [suspension(until="2026-11-23T03:00:00Z")]}), {}),
    "of another name": (pool({"suspensions": [suspension(name="other")]}), {}),
}


@pytest.mark.parametrize(("read", "entry"), SUSPENSIONS.values(), ids=SUSPENSIONS.keys())
def test_a_suspension(read: resources.PoolView, entry: dict[str, Any]) -> None:
    assert read == make_pool(entry=entry)


@pytest.mark.parametrize("models", [[{"name": "shapes", "traffic": []}], [{"name": "shapes"}], []])
def test_without_traffic_a_suspended_model_gets_none_of_the_specs(models: Any) -> None:
    read = pool({"models": models, "suspensions": [suspension(model="shapes-1")]})
    assert read == make_pool(offers={"shapes": {}}, entry={"suspended_models": ("shapes-1",)})


SCALINGS: dict[str, tuple[Any, Any, resources.Scaling]] = {
    "as it is told": (
        {"waitSeconds": 12},
        {"expectedAt": "2023-11-14T22:13:20.500000Z", "startSeconds": "41.5"},
        resources.Scaling(12.0, 1_700_000_000.5, 41.5),
    ),
    "that says nothing": ({}, {}, resources.Scaling(30.0)),
    "that is absent": (None, None, resources.Scaling(30.0)),
    "that cannot be": (
        {"waitSeconds": "NaN"},
        {"expectedAt": "soon", "startSeconds": -1},
        resources.Scaling(30.0),
    ),
}


@pytest.mark.parametrize(("spec", "status", "want"), SCALINGS.values(), ids=SCALINGS.keys())
def test_a_scaling(spec: Any, status: Any, want: resources.Scaling) -> None:
    assert pool({"scaling": status}, scaling=spec).scaling == want


ENTRIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "another name as fallback": ({"fallback": {"model": "other"}}, {"fallback": resources.Fallback("other")}),
    "earlier replies as fallback": (
        {"fallback": {"cached": True}},
        {"fallback": resources.Fallback(cached=True)},
    ),
    "a sticky header": (
        {"stickiness": {"header": "X-Session-Id"}},
        {"stickiness": resources.Stickiness(b"x-session-id")},
    ),
    "a sticky user": ({"stickiness": {"userField": True}}, {"stickiness": resources.Stickiness(user=True)}),
    "no more than there must be": ({"fallback": None, "stickiness": None, "suspend": False}, {}),
}


@pytest.mark.parametrize(("spec", "entry"), ENTRIES.values(), ids=ENTRIES.keys())
def test_an_entry_with(spec: dict[str, Any], entry: dict[str, Any]) -> None:
    assert pool(None, spec) == make_pool(entry=entry)


SCORED: dict[str, tuple[dict[str, Any], bool]] = {
    "one model": ({"traffic": FULL}, False),
    "a canary without traffic yet": ({"traffic": FULL, "canary": "shapes-2"}, True),
    "a split": ({"traffic": [*FULL, {"model": "shapes-2", "percent": 5}]}, True),
    "copies": ({"traffic": FULL, "mirror": [{"model": "shapes-2", "percent": 5}]}, True),
}


@pytest.mark.parametrize(("status", "want"), SCORED.values(), ids=SCORED.keys())
def test_pictures_are_scored_with(status: dict[str, Any], want: bool) -> None:
    assert pool({"models": [{"name": "shapes"} | status]}).models[0].scored is want


def test_reads_a_model() -> None:
    raw = {
        "metadata": {"name": "shapes-1", "namespace": "art"},
        "spec": {
            "source": {"uri": "file:///models/shapes-1"},
            "defaults": {"steps": 30, "guidanceScale": 3, "size": "512x768"},
            "limits": {"maxMegapixels": 2, "maxSteps": 60, "maxImages": 8},
            "license": {"spdx": "MIT"},
            "capabilities": ["text-to-image", "inpainting"],
            "adapters": [{"name": "pixel", "source": {"uri": "file:///models/pixel"}}],
        },
        "status": {
            "performance": [
                {"accelerator": "A", "secondsPerMegapixelStep": 0.01, "loadSeconds": 2},
                {"accelerator": "B", "secondsPerMegapixelStep": "NaN"},
                {"accelerator": "C", "secondsPerMegapixelStep": 0.03, "loadSeconds": 4},
            ],
            "conditions": [{"type": "Stalled", "status": "True", "message": "wrong digest"}],
        },
    }
    assert resources.read_model(msgspec.convert(raw, schemas.Model)) == make_model(
        steps=30,
        guidance_scale=3.0,
        size=(512, 768),
        max_megapixels=2.0,
        max_steps=60,
        max_images=8,
        capabilities=("text-to-image", "inpainting"),
        adapters=("pixel",),
        license="MIT",
        stalled="wrong digest",
        rate=0.02,
        load_seconds=3.0,
    )


def test_a_bare_model_has_the_schemas_defaults_and_no_measurements() -> None:
    raw = {"metadata": {"name": "shapes-1", "namespace": "art"}, "spec": {"source": {"uri": "file:///m"}}}
    model = resources.read_model(msgspec.convert(raw, schemas.Model))
    assert model == make_model(license=None, rate=None, load_seconds=None)


MEASURED: dict[str, tuple[Any, float | None]] = {
    "a number": (0.5, 0.5),
    "text": ("0.5", 0.5),
    "zero": ("0", 0.0),
    "nothing": (None, None),
    "a word": ("fast", None),
    "NaN": ("nan", None),
    "infinity": ("inf", None),
    "negative": (-1, None),
    "a list": ([1], None),
}


@pytest.mark.parametrize(("value", "want"), MEASURED.values(), ids=MEASURED.keys())
def test_measured(value: Any, want: float | None) -> None:
    assert resources.measured(value) == want


def test_placement_order_does_not_matter() -> None:
    one = json.dumps({"a": {"pinned": True}, "b": {"pinned": False}})
    other = json.dumps({"b": {"pinned": False}, "a": {"pinned": True}})
    assert resources.read_placement(one) == resources.read_placement(other)
