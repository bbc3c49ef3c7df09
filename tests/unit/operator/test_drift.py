"""Whether a child is written."""

import pytest
from imagefleet_operator.plan.cluster_types import Child
from imagefleet_operator.plan.drift import Action, covers, decide, owns
from imagefleet_operator.plan.types import Json

from tests.unit.operator.make import child


@pytest.mark.parametrize(
    ("known", "trusted", "want"),
    [
        pytest.param(None, None, Action.LOOK, id="not known"),
        pytest.param(child(), 7, Action.KEEP, id="as we left it"),
        pytest.param(child(), None, Action.LOOK, id="first sight after a start"),
        pytest.param(child(fields_hash=8), 7, Action.APPLY, id="someone took a field"),
        pytest.param(child(applied_hash="older"), 7, Action.APPLY, id="it is to be different"),
        pytest.param(child(owner="other", owner_name=""), 7, Action.REFUSE, id="someone else's"),
        pytest.param(child(owner="", owner_name=""), 7, Action.REFUSE, id="nobody's"),
        pytest.param(child(owner="older"), 7, Action.KEEP, id="of a pool of this name that has gone"),
        pytest.param(
            child(owner="o", owner_name="InferencePool/other"), 7, Action.REFUSE, id="of another pool"
        ),
        pytest.param(child(deleting=True), 7, Action.KEEP, id="on its way out; its end wakes us"),
    ],
)
def test_decisions(known: Child | None, trusted: int | None, want: Action) -> None:
    owner = {"kind": "InferencePool", "name": "thumbs", "uid": "pool-uid"}
    assert decide(known, owner, "hash", trusted) is want


FIELDS: Json = {
    "f:replicas": {},
    "f:args": {},
    "f:env": {
        'k:{"name":"A"}': {".": {}, "f:name": {}, "f:value": {}},
        'k:{"name":"B"}': {".": {}, "f:name": {}, "f:value": {}},
    },
    "f:ports": {'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}}},
    "f:finalizers": {".": {}, 'v:"x"': {}},
}


@pytest.mark.parametrize(
    ("wanted", "want"),
    [
        pytest.param({"replicas": 3}, True, id="a field"),
        pytest.param({"replicas": 3, "paused": True}, False, id="a field that someone took"),
        pytest.param({"args": ["serve"]}, True, id="a list that is owned as a whole"),
        pytest.param({"env": [{"name": "A", "value": "1"}]}, True, id="an item by its key"),
        pytest.param({"env": [{"name": "C", "value": "1"}]}, False, id="an item that was removed"),
        pytest.param({"env": [{"name": "A", "valueFrom": {}}]}, False, id="a field of an item"),
        pytest.param({"ports": [{"containerPort": 80}]}, True, id="a key that has a default"),
        pytest.param({"ports": [{"containerPort": 81}]}, False, id="another key"),
        pytest.param({"finalizers": ["x"]}, True, id="an item by its value"),
        pytest.param({"finalizers": ["y"]}, False, id="another value"),
    ],
)
def test_ownership_of_what_was_applied(wanted: Json, want: bool) -> None:
    assert owns(FIELDS, wanted) is want


def test_an_objects_name_is_nobodys() -> None:
    applied = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "x", "namespace": "y", "labels": {"a": "b"}},
    }
    assert covers({"f:metadata": {"f:labels": {"f:a": {}}}}, applied)
    assert not covers({"f:metadata": {"f:labels": {}, "f:annotations": {}}}, {**applied, "spec": {}})
    assert not covers({}, applied)
