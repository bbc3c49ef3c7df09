"""Resources of the cluster become typed values, or a typed error that names the field."""

import contextlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_operator.api import (
    Condition,
    ImageModel,
    ImageModelStatus,
    InferencePool,
    InvalidReason,
    InvalidResource,
    Metadata,
)

from tests.integration.manifests import (
    FOLDER,
    BadManifest,
    condition_manifests,
    good_manifests,
    refused_manifests,
)

KINDS: dict[str, type[ImageModel] | type[InferencePool]] = {
    "ImageModel": ImageModel,
    "InferencePool": InferencePool,
}
METADATA = {"name": "shapes-1", "namespace": "studio", "uid": "u-1", "generation": 3, "resourceVersion": "17"}
READ_TOO = (
    "rollout",
    "slo",
    "stickiness",
    "experiment",
    "shadow",
    "fallback",
    "checks",
    "budget",
    "scaling",
    "warm-pool",
)
ONLY_THE_API_SERVER = ("unknown field", "Duplicate value", "must be of type")
"""Fields that are not there, items that are there twice, and texts that pydantic reads as numbers."""
MISTAKES = [
    manifest
    for manifest in refused_manifests()
    if manifest.path.stem.removeprefix("pool-").startswith(READ_TOO)
    and not any(what in str(manifest.refusal) for what in ONLY_THE_API_SERVER)
]


def make_model(**spec: Any) -> dict[str, Any]:
    return {"metadata": METADATA, "spec": {"source": {"uri": "file:///models/shapes-1"}} | spec}


def make_pool(**spec: Any) -> dict[str, Any]:
    return {"metadata": METADATA, "spec": {"models": [{"name": "a", "model": "b"}], "replicas": 1} | spec}


def stored(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with what an API server adds."""
    return manifest | {"metadata": {**METADATA, **manifest["metadata"]}}


def subset(want: Any, got: Any) -> bool:
    """Whether `got` holds all that `want` holds; a trailing default more is no loss."""
    if isinstance(want, dict):
        return isinstance(got, dict) and all(
            key in got and subset(value, got[key]) for key, value in want.items()
        )
    if isinstance(want, list):
        return len(want) == len(got) and all(map(subset, want, got))
    return bool(want == got)


@pytest.mark.parametrize("path", good_manifests(), ids=lambda path: path.stem)
def test_a_good_manifest_is_read_and_written_without_loss(path: Path) -> None:
    manifest = yaml.safe_load(path.read_text())
    resource = KINDS[manifest["kind"]].parse(stored(manifest))
    written = resource.spec.to_dict()
    assert subset(manifest["spec"], written)
    assert KINDS[manifest["kind"]].parse(stored(manifest | {"spec": written})) == resource


@pytest.mark.parametrize("manifest", condition_manifests(), ids=lambda manifest: manifest.path.stem)
def test_what_only_the_operator_can_find_wrong_is_still_read(manifest: Any) -> None:
    for document in manifest.documents:
        parsed = KINDS[document["kind"]].parse(stored(document))
        assert parsed.metadata.name == document["metadata"]["name"]


@pytest.mark.parametrize("manifest", MISTAKES, ids=lambda manifest: manifest.path.stem)
def test_what_the_api_server_refuses_is_not_read_either(manifest: BadManifest) -> None:
    with pytest.raises(InvalidResource) as caught:
        InferencePool.parse(stored(manifest.documents[-1]))
    named = caught.value.message.partition(": ")[0]
    assert named.startswith("spec")
    assert str(manifest.refusal).replace("\\", "").startswith(named)


def test_the_shortest_model_has_every_default() -> None:
    spec = ImageModel.parse(make_model()).spec
    assert spec.to_dict() == {
        "source": {"uri": "file:///models/shapes-1"},
        "pipeline": {
            "className": "AutoPipelineForText2Image",
            "dtype": "auto",
            "quantization": "none",
            "compile": "none",
            "attention": "auto",
        },
        "defaults": {"steps": 20, "guidanceScale": 5.0, "size": "512x512"},
        "limits": {"maxMegapixels": 1.1, "maxSteps": 50, "maxImages": 4},
        "sizes": [],
        "capabilities": [],
        "adapters": [],
    }
    assert spec.memory_bytes is None


def test_the_shortest_pool_has_every_default() -> None:
    spec = InferencePool.parse(make_pool()).spec
    assert spec.models[0].min_resident == 1
    assert spec.worker.accelerator.to_dict() == {"resource": "nvidia.com/gpu", "count": 1}
    assert spec.worker.max_request_seconds == 300
    assert spec.worker.image is None
    assert spec.worker.checks.to_dict() == {}
    assert (spec.suspend, spec.models[0].suspend) == (False, False)
    assert spec.worker.pod_template.to_dict() == {"metadata": {"labels": {}, "annotations": {}}, "spec": {}}


@pytest.mark.parametrize(
    ("uri", "want_claim", "want_folder"),
    [
        ("s3://weights/a", None, None),
        ("oci://registry.example.com/a:v1", None, None),
        ("file:///models/shapes-1", None, "/models/shapes-1"),
        ("file:///models/shapes-1/", None, "/models/shapes-1"),
        ("pvc://weights/shapes-1", "weights", "/pvc/weights/shapes-1"),
        ("pvc://weights.example/a/b/", "weights.example", "/pvc/weights.example/a/b"),
    ],
)
def test_a_source_knows_its_claim_and_its_folder(
    uri: str, want_claim: str | None, want_folder: str | None
) -> None:
    source = ImageModel.parse(make_model(source={"uri": uri})).spec.source
    assert (source.claim, source.folder) == (want_claim, want_folder)


def test_a_size_has_a_width_and_a_height() -> None:
    defaults = ImageModel.parse(make_model(defaults={"size": "512x768"})).spec.defaults
    assert (defaults.width, defaults.height) == (512, 768)


@pytest.mark.parametrize(("memory", "want"), [("7Gi", 7516192768), (1024, 1024)])
def test_memory_is_known_in_bytes(memory: int | str, want: int) -> None:
    assert ImageModel.parse(make_model(memory=memory)).spec.memory_bytes == want


@pytest.mark.parametrize(
    ("kind", "spec", "want_message"),
    [
        (ImageModel, {"source": None}, "spec.source: "),
        (ImageModel, {"source": {}}, "spec.source.uri: Field required"),
        (
            ImageModel,
            {"source": {"uri": "ftp://bucket/a"}},
            "spec.source.uri: uri must begin with file://, pvc://, hf://",
        ),
        (
            ImageModel,
            {"source": {"uri": "file://models"}},
            "spec.source.uri: a file:// uri holds an absolute path",
        ),
        (ImageModel, {"source": {"uri": "pvc://weights"}}, "spec.source.uri: a pvc:// uri holds the name"),
        (ImageModel, {"source": {"uri": "file:///a/../b"}}, "spec.source.uri: uri must not hold '.', '..'"),
        (ImageModel, {"source": {"uri": "file:///a b"}}, "spec.source.uri: uri may hold letters, digits"),
        (ImageModel, {"source": {"uri": "file:///a\n"}}, "spec.source.uri: uri may hold letters, digits"),
        (ImageModel, {"defaults": {"size": "large"}}, "spec.defaults.size: size must be WIDTHxHEIGHT"),
        (ImageModel, {"memory": "lots"}, "spec.memory: 'lots' is no quantity"),
        (
            ImageModel,
            {"source": {"uri": "hf://owner/name@main"}},
            "spec.source.uri: an hf:// uri pins its revision",
        ),
        (ImageModel, {"sizes": ["square"]}, "spec.sizes[0]: size must be WIDTHxHEIGHT"),
        (
            ImageModel,
            {"adapters": [{"name": "pixel", "source": {"uri": "pixel"}}]},
            "spec.adapters[0].source.uri: uri must begin with",
        ),
        (ImageModel, {"pipeline": {"stepCache": {}}}, "spec.pipeline.stepCache.type: Field required"),
        (
            ImageModel,
            {"pipeline": {"dtype": "int4"}},
            "spec.pipeline.dtype: Input should be 'auto', 'float32'",
        ),
        (InferencePool, {"models": None}, "spec.models: "),
        (InferencePool, {"models": [{"name": "a"}]}, "spec.models[0].model: Field required"),
        (InferencePool, {"replicas": "many"}, "spec.replicas: "),
        (InferencePool, {"replicas": -1}, "spec.replicas: Input should be greater than or equal to 0"),
        (InferencePool, {"worker": {"podTemplate": {"spec": []}}}, "spec.worker.podTemplate.spec: "),
    ],
)
def test_a_spec_of_an_older_schema_is_a_typed_error_that_names_the_field(
    kind: type[ImageModel] | type[InferencePool], spec: dict[str, Any], want_message: str
) -> None:
    make = make_model if kind is ImageModel else make_pool
    with pytest.raises(InvalidResource) as caught:
        kind.parse(make(**spec))
    assert caught.value.reason == InvalidReason.INVALID_SPEC
    assert caught.value.message.startswith(want_message)


def test_every_wrong_field_is_named() -> None:
    with pytest.raises(InvalidResource) as caught:
        ImageModel.parse(make_model(memory="lots", limits={"maxImages": 0}))
    assert "spec.memory" in caught.value.message
    assert "spec.limits.maxImages" in caught.value.message


@pytest.mark.parametrize(
    "metadata", [None, {}, {"name": "a"}, {**METADATA, "uid": 7}, {**METADATA, "labels": 1}, []]
)
def test_metadata_that_no_api_server_wrote_is_a_typed_error(metadata: Any) -> None:
    with pytest.raises(InvalidResource) as caught:
        ImageModel.parse(make_model() | {"metadata": metadata})
    assert caught.value.reason == InvalidReason.INVALID_METADATA


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PARTS = st.sampled_from(
    ["source", "memory", "models", "worker", "replicas", "defaults", "limits", "pipeline"]
)


@given(spec=JSON | st.dictionaries(PARTS, JSON), status=JSON, metadata=st.just(METADATA) | JSON)
def test_nothing_but_a_typed_error_ever_comes_of_reading(spec: Any, status: Any, metadata: Any) -> None:
    for kind in KINDS.values():
        with contextlib.suppress(InvalidResource):
            assert kind.parse({"metadata": metadata, "spec": spec, "status": status}).metadata.name


FIELDS_OF_AN_ENTRY = ("rollout", "slo", "stickiness", "experiments", "shadow", "fallback", "suspend")
WORDS = st.sampled_from(
    [
        "steps",
        "analysis",
        "setWeight",
        "pause",
        "mirror",
        "percent",
        "latency",
        "maxRatio",
        "abortBurnRate",
        "header",
        "userField",
        "arms",
        "model",
        "name",
        "cached",
        "successRate",
        "onUnsafe",
        "latencySeconds",
        "p95",
    ]
)
NESTED = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 101) | st.sampled_from(["0.5", "2", "x", "", "Suspend"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


@given(entry=st.dictionaries(st.sampled_from(FIELDS_OF_AN_ENTRY), NESTED, max_size=3))
def test_nothing_but_a_typed_error_ever_comes_of_reading_an_entry(entry: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidResource):
        (read,) = InferencePool.parse(make_pool(models=[{"name": "a", "model": "b", **entry}])).spec.models
        assert (read.name, read.model) == ("a", "b")


@pytest.mark.parametrize(
    "status", [None, {"observedGeneration": "old"}, {"conditions": [{"type": "Ready"}]}, []]
)
def test_a_status_that_cannot_be_read_counts_as_never_written(status: Any) -> None:
    model = ImageModel.parse(make_model() | {"status": status})
    assert model.status == ImageModelStatus()
    assert model.status.observed_generation == -1


@pytest.mark.parametrize(("kind", "name"), [(ImageModel, "model"), (InferencePool, "pool")])
def test_a_status_is_read_without_loss(kind: type[ImageModel] | type[InferencePool], name: str) -> None:
    raw = yaml.safe_load((FOLDER / "status" / f"{name}.yaml").read_text())
    made = make_model() if kind is ImageModel else make_pool()
    assert subset(raw, kind.parse(made | {"status": raw}).status.to_dict())


def test_a_field_that_a_newer_version_added_is_ignored() -> None:
    assert ImageModel.parse(make_model(quantization="int8")) == ImageModel.parse(make_model())


def test_metadata_is_read_with_its_times() -> None:
    raw = METADATA | {
        "creationTimestamp": "2026-01-02T03:04:05Z",
        "deletionTimestamp": "2026-01-02T03:04:06Z",
        "labels": {"team": "a"},
        "annotations": {"note": "b"},
    }
    assert Metadata.parse({"metadata": raw}) == Metadata(
        name="shapes-1",
        namespace="studio",
        uid="u-1",
        generation=3,
        resource_version="17",
        creation_timestamp=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        deletion_timestamp=datetime(2026, 1, 2, 3, 4, 6, tzinfo=UTC),
        labels={"team": "a"},
        annotations={"note": "b"},
    )


@pytest.mark.parametrize(("stamp", "want"), [(None, False), ("2026-01-02T03:04:06Z", True)])
def test_a_resource_is_deleting_once_deletion_was_asked_for(stamp: str | None, want: bool) -> None:
    metadata = Metadata.parse({"metadata": METADATA | {"deletionTimestamp": stamp}})
    assert metadata.deleting is want
    assert metadata.key == ("studio", "shapes-1")


def test_a_condition_is_found_by_its_type() -> None:
    raw = {
        "type": "Ready",
        "status": "True",
        "observedGeneration": 3,
        "lastTransitionTime": "2026-01-02T03:04:05Z",
        "reason": "Ready",
        "message": "All is there.",
    }
    status = ImageModel.parse(
        make_model() | {"status": {"observedGeneration": 3, "conditions": [raw]}}
    ).status
    assert status.condition("Ready") == Condition.model_validate(raw)
    assert status.condition("Verified") is None
    assert status.to_dict()["conditions"] == [raw]


def test_a_parsed_resource_cannot_be_changed() -> None:
    spec = InferencePool.parse(make_pool()).spec
    with pytest.raises(ValueError, match="frozen"):
        spec.replicas = 7  # type: ignore[misc]
