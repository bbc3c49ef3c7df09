"""A pod template that is merged over ours."""

from typing import Any

import pytest
from imagefleet_operator.render.merge import merge_pod_template

OURS: dict[str, Any] = {
    "metadata": {"labels": {"ours": "1"}},
    "spec": {
        "serviceAccountName": "sa",
        "tolerations": [{"key": "ours"}],
        "containers": [
            {
                "name": "worker",
                "image": "img",
                "command": ["run"],
                "env": [{"name": "A", "value": "1"}, {"name": "P", "valueFrom": {"fieldRef": {}}}],
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }
        ],
    },
}


@pytest.mark.parametrize(
    ("theirs", "path", "want"),
    [
        pytest.param({"spec": {"nodeSelector": {"a": "b"}}}, "nodeSelector", {"a": "b"}, id="a new field"),
        pytest.param({"spec": {"serviceAccountName": "x"}}, "serviceAccountName", "x", id="a value"),
        pytest.param(
            {"spec": {"serviceAccountName": None}}, "serviceAccountName", "sa", id="null is no opinion"
        ),
        pytest.param(
            {"spec": {"tolerations": [{"key": "x"}]}}, "tolerations", [{"key": "x"}], id="a plain list"
        ),
        pytest.param(
            {"spec": {"containers": [{"name": "worker", "image": "x"}]}},
            "containers.0.image",
            "x",
            id="a container by name",
        ),
        pytest.param(
            {"spec": {"containers": [{"name": "side"}]}},
            "containers.1",
            {"name": "side"},
            id="another container",
        ),
        pytest.param(
            {"spec": {"containers": [{"name": "worker", "command": ["x", "y"]}]}},
            "containers.0.command",
            ["x", "y"],
            id="a command as a whole",
        ),
        pytest.param(
            {
                "spec": {
                    "containers": [{"name": "worker", "env": [{"name": "A", "value": "2"}, {"name": "B"}]}]
                }
            },
            "containers.0.env",
            [{"name": "A", "value": "2"}, {"name": "P", "valueFrom": {"fieldRef": {}}}, {"name": "B"}],
            id="variables by name",
        ),
        pytest.param(
            {"spec": {"containers": [{"name": "worker", "env": [{"name": "P", "value": "2"}]}]}},
            "containers.0.env.1",
            {"name": "P", "value": "2"},
            id="a variable from another source",
        ),
        pytest.param(
            {
                "spec": {
                    "containers": [{"name": "worker", "volumeMounts": [{"name": "tmp", "mountPath": "/x"}]}]
                }
            },
            "containers.0.volumeMounts",
            [{"name": "tmp", "mountPath": "/tmp"}, {"name": "tmp", "mountPath": "/x"}],
            id="mounts by path",
        ),
    ],
)
def test_a_pod_template_over_ours(theirs: dict[str, Any], path: str, want: object) -> None:
    found: Any = merge_pod_template(OURS, theirs, {})["spec"]
    for part in path.split("."):
        found = found[int(part)] if part.isdigit() else found[part]
    assert found == want


def test_our_labels_stay_ours() -> None:
    theirs = {"metadata": {"labels": {"ours": "2", "team": "x"}, "annotations": {"a": "b"}}}
    merged = merge_pod_template(OURS, theirs, {"ours": "1"})
    assert merged["metadata"] == {"labels": {"ours": "1", "team": "x"}, "annotations": {"a": "b"}}
