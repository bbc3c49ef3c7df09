"""The CRDs are structural, documented in full, bounded, and committed as the models make them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from scripts.api_reference import fields, rules
from scripts.crd_schema import spec_schema
from scripts.generate_crds import (
    KINDS,
    ROOT,
    custom_resource_definition,
    differing_files,
    generated_files,
    main,
)
from tests.integration.manifests import FOLDER, refused_manifests

MAX_BYTES = 200_000
ORDERED = (
    ".spec.models[].rollout.steps",
    ".spec.worker.spot.tolerations",  # Kubernetes' own have no key either
    ".status.history",
    ".status.suspensions",
    ".status.scaling.decisions",
)
REFUSED = refused_manifests()
GENERATED = generated_files()
DEFINITIONS = {kind.resource.KIND: custom_resource_definition(kind) for kind in KINDS}


def version(kind: str) -> dict[str, Any]:
    return DEFINITIONS[kind]["spec"]["versions"][0]  # type: ignore[no-any-return]


def root(kind: str) -> dict[str, Any]:
    return version(kind)["schema"]["openAPIV3Schema"]  # type: ignore[no-any-return]


def parts(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping of a schema."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from parts(value)
    if isinstance(node, list):
        for value in node:
            yield from parts(value)


ALL_FIELDS = [(kind, *field) for kind in DEFINITIONS for field in fields(root(kind), "")]
ALL_RULES = [(kind, path, rule) for kind in DEFINITIONS for path, rule in rules(root(kind))]


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_a_schema_holds_nothing_that_a_structural_one_may_not(kind: str) -> None:
    keys = {key for part in parts(root(kind)) for key in part}
    assert not keys & {"$ref", "$defs", "title", "const", "prefixItems", "nullable"}


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_every_field_says_what_it_means(kind: str) -> None:
    undocumented = [
        path for owner, path, field, _ in ALL_FIELDS if owner == kind and not field.get("description")
    ]
    assert undocumented == [".metadata"]  # Kubernetes documents that one


def test_every_list_can_be_merged_item_by_item_unless_its_order_is_what_it_means() -> None:
    """Objects by a key of theirs, texts as a set."""
    lists = {path: field for _, path, field, _ in ALL_FIELDS if field.get("type") == "array"}
    wanted = {path: "set" if field["items"]["type"] == "string" else "map" for path, field in lists.items()}
    assert set(wanted.values()) == {"set", "map"}
    wanted |= dict.fromkeys(ORDERED, "atomic")
    assert {path: field.get("x-kubernetes-list-type") for path, field in lists.items()} == wanted


def test_every_list_map_key_is_required_of_its_items() -> None:
    for _, path, field, _ in ALL_FIELDS:
        for key in field.get("x-kubernetes-list-map-keys", []):
            assert key in field["items"]["required"], path


def test_no_default_stands_inside_a_list() -> None:
    assert not [path for _, path, field, _ in ALL_FIELDS if "[]" in path and "default" in field]


def test_a_status_has_no_default_but_that_nobody_has_seen_it() -> None:
    for kind in DEFINITIONS:
        status = root(kind)["properties"]["status"]
        assert status["default"] == {"observedGeneration": -1}
        assert not [path for path, field, _ in fields(status, "") if "default" in field]


@pytest.mark.parametrize(("kind", "name"), [("ImageModel", "model"), ("InferencePool", "pool")])
def test_the_tests_know_a_status_with_every_field(kind: str, name: str) -> None:
    status = yaml.safe_load((FOLDER / "status" / f"{name}.yaml").read_text())
    shown = {*paths(status, ".status"), ".status.observedGeneration"}
    known = {path for owner, path, _, _ in ALL_FIELDS if owner == kind and path.startswith(".status.")}
    assert known - shown == set()


def paths(node: Any, path: str) -> Iterator[str]:
    """The path of every part of a value, lists as `fields` writes them."""
    yield path
    if isinstance(node, dict):
        for key, value in node.items():
            yield from paths(value, f"{path}.{key}")
    if isinstance(node, list):
        for value in node:
            yield from paths(value, f"{path}[]")


def test_every_text_of_a_spec_that_a_rule_reads_is_bounded() -> None:
    ruled = [
        (path, field)
        for _, path, field, _ in ALL_FIELDS
        if field.get("type") == "string" and "x-kubernetes-validations" in field
    ]
    assert ruled
    assert not [path for path, field in ruled if "maxLength" not in field]


@pytest.mark.parametrize(
    ("kind", "path", "rule"), ALL_RULES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_rule_says_how_to_mend_and_has_a_manifest_that_breaks_it(
    kind: str, path: str, rule: dict[str, str]
) -> None:
    assert re.search(r": |, so ", rule["message"]), "say what is wrong, then after a colon how to mend it"
    breaking = [
        bad.path.name
        for bad in REFUSED
        if bad.documents[-1]["kind"] == kind and re.search(str(bad.refusal), refusal(path, rule))
    ]
    assert breaking, (
        f"no manifest of tests/integration/manifests/bad expects the message of the rule on {path or kind}"
    )


def refusal(path: str, rule: dict[str, str]) -> str:
    """How kubectl prints a refusal by a rule, for the first item of lists."""
    where = path.replace("[]", "[0]") or "<nil>"
    what = {"FieldValueForbidden": "Forbidden", "FieldValueRequired": "Required value"}
    return f"{where}: {what.get(rule.get('reason', ''), 'Invalid value')}: {rule['message']}"


def test_names_follow_the_contract() -> None:
    names = {kind: definition["spec"]["names"] for kind, definition in DEFINITIONS.items()}
    assert {kind: name["shortNames"] for kind, name in names.items()} == {
        "ImageModel": ["imgmodel"],
        "InferencePool": ["imgpool"],
    }
    assert all(name["categories"] == ["imagefleet"] for name in names.values())
    assert {d["metadata"]["name"] for d in DEFINITIONS.values()} == {
        "imagemodels.imagefleet.dev",
        "inferencepools.imagefleet.dev",
    }


def test_only_the_pool_scales() -> None:
    assert version("ImageModel")["subresources"] == {"status": {}}
    assert version("InferencePool")["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    }


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_every_column_shows_a_field_that_exists(kind: str) -> None:
    known = {path for path, _, _ in fields(root(kind), "")} | {".metadata.creationTimestamp"}
    for column in version(kind)["additionalPrinterColumns"]:
        path = re.sub(r"\[.*?\]", "[]", column["jsonPath"])
        assert path in known, column["name"]


@pytest.mark.parametrize("path", [path for path in GENERATED if path.endswith(".yaml")])
def test_a_generated_crd_is_small_and_says_where_it_comes_from(path: str) -> None:
    text = GENERATED[path]
    assert len(text.encode()) < MAX_BYTES
    assert text.startswith("# Generated by `make generate`")
    assert yaml.safe_load(text)["kind"] == "CustomResourceDefinition"


def test_generating_changes_no_committed_file() -> None:
    assert differing_files(ROOT) == []


def test_generating_twice_gives_the_same_text() -> None:
    assert generated_files() == GENERATED


def test_the_check_names_what_differs_and_how_to_mend_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("scripts.generate_crds.ROOT", tmp_path)
    assert main(["--check"]) == 1
    told = capsys.readouterr().out
    assert "docs/reference/api.md" in told
    assert "make generate" in told
    assert not list(tmp_path.iterdir())

    assert main([]) == 0
    assert differing_files(tmp_path) == []
    assert main(["--check"]) == 0


@pytest.mark.parametrize("kind", DEFINITIONS)
def test_the_reference_lists_every_field_and_rule(kind: str) -> None:
    page = GENERATED["docs/reference/api.md"]
    for part in ("spec", "status"):
        for path, _, _ in fields(root(kind)["properties"][part], part):
            assert f"| `{path}` |" in page
    for _, rule in rules(root(kind)):
        assert rule["message"] in page


class Alternatives(BaseModel):
    """A model that no structural schema can express."""

    either: list[str] | dict[str, str]


def test_alternatives_that_no_structural_schema_expresses_are_refused() -> None:
    with pytest.raises(ValueError, match="no place for the alternatives"):
        spec_schema(Alternatives)
