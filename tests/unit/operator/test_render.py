"""Child objects: the restricted Pod Security level field by field, and what is asked for."""

import json
from dataclasses import replace
from typing import Any

import pytest
from imagefleet_operator.plan.spot_types import SpotSpec
from imagefleet_operator.plan.types import Json, SourceSpec
from imagefleet_operator.plan.workers import (
    NodeCache,
    OnDemandSpec,
    VerifySpec,
    WorkerDefaults,
    WorkersSpec,
    verify_spec,
    workers_spec,
)
from imagefleet_operator.render import (
    HASH_ANNOTATION,
    ON_DEMAND_CHILD,
    hash_of,
    pool_children,
    verify_job,
)

from tests.unit.operator.make import NOW, described, model, observed, pool

SPEC = WorkersSpec("ns", "thumbs", "uid", "img:1", 2, "nvidia.com/gpu", 1, {}, 300, (), {})
JOB = VerifySpec("ns", "shapes-1", "uid", "img:1", ("verify", "--uri", "pvc://w/a"), ("w",))
CPU = replace(SPEC, accelerator_count=0)
FETCHING = replace(SPEC, secrets=("bucket", "hub.token"))
FETCH_JOB = replace(JOB, secrets=("bucket",), cache=NodeCache())


def pod_spec(spec: WorkersSpec | VerifySpec) -> Any:
    workload = verify_job(spec) if isinstance(spec, VerifySpec) else pool_children(spec, "KEY")["Deployment"]
    return workload["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    "spec",
    [SPEC, CPU, replace(SPEC, claims=("w",)), FETCHING, JOB, FETCH_JOB],
    ids=["gpu", "cpu", "claim", "secrets", "verify", "fetch"],
)
def test_pods_satisfy_the_restricted_level(spec: WorkersSpec | VerifySpec) -> None:
    pod = pod_spec(spec)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    for volume in pod["volumes"]:
        assert volume.keys() - {"name"} <= {"emptyDir", "persistentVolumeClaim", "secret"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("spec", [SPEC, JOB], ids=["worker", "verify"])
def test_pods_have_no_access_to_the_api(spec: WorkersSpec | VerifySpec) -> None:
    assert pod_spec(spec)["automountServiceAccountToken"] is False
    assert pool_children(SPEC, "KEY")["ServiceAccount"]["automountServiceAccountToken"] is False


SPOT = replace(
    SPEC,
    replicas=3,
    spot=SpotSpec({"kind": "spot", "zone": "a"}, ({"key": "spot", "operator": "Exists"},)),
    on_demand=OnDemandSpec("thumbs-workers-on-demand", 1, 2),
)


def capacity(spec: WorkersSpec) -> tuple[Json, Json]:
    """The Deployments of spot workers and of those on demand."""
    children = pool_children(spec, "KEY")
    return children["Deployment"], children[ON_DEMAND_CHILD]


def test_a_pool_without_spot_has_one_deployment_whose_pods_say_nothing_of_capacity() -> None:
    children = pool_children(SPEC, "KEY")
    assert ON_DEMAND_CHILD not in children
    assert "capacity" not in json.dumps(children)
    assert "IMAGEFLEET_INTERRUPT" not in json.dumps(children)


def test_two_deployments_share_a_pools_workers_and_tell_them_apart() -> None:
    spot, on_demand = capacity(SPOT)
    names = [(d["metadata"]["name"], d["spec"]["replicas"]) for d in (spot, on_demand)]
    assert names == [("thumbs-workers", 3), ("thumbs-workers-on-demand", 1)]
    labels = [
        d["spec"]["template"]["metadata"]["labels"]["imagefleet.dev/capacity"] for d in (spot, on_demand)
    ]
    assert labels == ["spot", "on-demand"]
    assert spot["spec"]["selector"] == pool_children(SPEC, "KEY")["Deployment"]["spec"]["selector"]
    assert on_demand["spec"]["selector"]["matchLabels"]["imagefleet.dev/capacity"] == "on-demand"
    assert [d["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] for d in (spot, on_demand)] == [0, 2]
    pods = [d["spec"]["template"]["spec"] for d in (spot, on_demand)]
    assert {pod["serviceAccountName"] for pod in pods} == {"thumbs-workers"}
    env = [{e["name"]: e.get("value") for e in pod["containers"][0]["env"]} for pod in pods]
    assert [each.get("IMAGEFLEET_INTERRUPT") for each in env] == ["checkpoint", None]


def test_spot_workers_are_on_spot_nodes_and_the_others_on_nodes_that_lack_one_of_their_labels() -> None:
    gpu = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    spot, on_demand = (d["spec"]["template"]["spec"] for d in capacity(SPOT))
    assert spot["nodeSelector"] == {"kind": "spot", "zone": "a"}
    assert spot["tolerations"] == [gpu, {"key": "spot", "operator": "Exists"}]
    assert "affinity" not in spot
    assert on_demand["tolerations"] == [gpu]
    assert terms(on_demand) == [
        {"matchExpressions": [{"key": "kind", "operator": "NotIn", "values": ["spot"]}]},
        {"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]},
    ]


def terms(pod: Json) -> list[Json]:
    found = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return list(found["nodeSelectorTerms"])


def test_what_a_pod_template_says_of_nodes_holds_for_both() -> None:
    big = {"key": "size", "operator": "In", "values": ["big"]}
    other = {"key": "size", "operator": "In", "values": ["huge"]}
    asked = {"nodeSelectorTerms": [{"matchExpressions": [big]}, {"matchExpressions": [other]}]}
    soft = [{"weight": 1, "preference": {"matchExpressions": [big]}}]
    node = {
        "requiredDuringSchedulingIgnoredDuringExecution": asked,
        "preferredDuringSchedulingIgnoredDuringExecution": soft,
    }
    template = {"spec": {"nodeSelector": {"gpu": "h200"}, "affinity": {"nodeAffinity": node}}}
    only = replace(SPOT, pod_template=template, spot=SpotSpec({"kind": "spot"}))
    spot, on_demand = (d["spec"]["template"]["spec"] for d in capacity(only))
    assert spot["nodeSelector"] == {"gpu": "h200", "kind": "spot"}
    assert spot["affinity"] == template["spec"]["affinity"]
    assert on_demand["nodeSelector"] == {"gpu": "h200"}
    off = {"key": "kind", "operator": "NotIn", "values": ["spot"]}
    assert terms(on_demand) == [{"matchExpressions": [big, off]}, {"matchExpressions": [other, off]}]
    assert on_demand["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"] == soft


@pytest.mark.parametrize("kind", ["Deployment", "Service", "ServiceAccount", "PodDisruptionBudget"])
def test_every_child_belongs_to_its_pool(kind: str) -> None:
    metadata = pool_children(SPEC, "KEY")[kind]["metadata"]
    assert (metadata["name"], metadata["namespace"]) == ("thumbs-workers", "ns")
    assert metadata["labels"]["app.kubernetes.io/managed-by"] == "imagefleet"
    assert metadata["labels"]["imagefleet.dev/pool"] == "thumbs"
    assert metadata["ownerReferences"] == [
        {
            "apiVersion": "imagefleet.dev/v1alpha1",
            "kind": "InferencePool",
            "name": "thumbs",
            "uid": "uid",
            "controller": True,
            "blockOwnerDeletion": False,
        }
    ]


def test_a_worker_holds_its_accelerators() -> None:
    deployment = pool_children(replace(SPEC, accelerator_count=2, resources={"limits": {"cpu": "4"}}), "KEY")[
        "Deployment"
    ]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"] == {"limits": {"cpu": "4", "nvidia.com/gpu": "2"}}
    assert {"name": "shm", "emptyDir": {"medium": "Memory"}} in deployment["spec"]["template"]["spec"][
        "volumes"
    ]


def test_a_worker_on_the_cpu_asks_for_no_accelerator() -> None:
    deployment = pool_children(CPU, "KEY")["Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"] == {}
    assert [v["name"] for v in pod["volumes"]] == ["cache", "tmp"]
    assert "tolerations" not in pod


@pytest.mark.parametrize(("may_be_away", "spare"), [(0, 1), (1, 0), (2, 0)])
def test_either_a_new_worker_starts_first_or_old_ones_end_first(may_be_away: int, spare: int) -> None:
    strategy = pool_children(replace(SPEC, max_unavailable=may_be_away), "KEY")["Deployment"]["spec"][
        "strategy"
    ]
    assert strategy == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": may_be_away, "maxSurge": spare},
    }


@pytest.mark.parametrize(
    ("checks", "want"),
    [
        ({}, {}),
        ({"safety_check": "shapes"}, {"IMAGEFLEET_SAFETY_CHECK": "shapes"}),
        (
            {"safety_check": "nsfw", "quality_score": "clip"},
            {"IMAGEFLEET_SAFETY_CHECK": "nsfw", "IMAGEFLEET_QUALITY_SCORE": "clip"},
        ),
    ],
    ids=["none", "one", "both"],
)
def test_a_worker_is_told_which_checks_look_at_its_pictures(
    checks: dict[str, Any], want: dict[str, str]
) -> None:
    made = workers_spec(observed(pool=pool(**checks)), WorkerDefaults("img"), NOW)
    assert made is not None
    variables = {e["name"]: e.get("value") for e in pod_spec(made)["containers"][0]["env"]}
    names = {"IMAGEFLEET_SAFETY_CHECK", "IMAGEFLEET_QUALITY_SCORE"}
    assert {name: value for name, value in variables.items() if name in names} == want


def test_a_worker_is_told_what_the_contract_says() -> None:
    pod = pod_spec(SPEC)
    container = pod["containers"][0]
    assert (container["command"], container["args"]) == (
        ["dumb-init", "--single-child", "--", "imagefleet-worker"],
        ["serve"],
    )
    assert {e["name"]: e.get("value", e.get("valueFrom")) for e in container["env"]} == {
        "IMAGEFLEET_NAMESPACE": "ns",
        "IMAGEFLEET_POOL": "thumbs",
        "IMAGEFLEET_POD": {"fieldRef": {"fieldPath": "metadata.name"}},
        "IMAGEFLEET_CALLER_PUBLIC_KEY": "KEY",
        "IMAGEFLEET_MAX_REQUEST_SECONDS": "300",
        "IMAGEFLEET_PORT": "8000",
        "IMAGEFLEET_CACHE_DIR": "/cache",
        "IMAGEFLEET_CACHE_BYTES": "0",
        "IMAGEFLEET_SOURCE_LIMIT_BYTES": str(200 * 2**30),
        "HF_HUB_OFFLINE": "1",
        "HOME": "/tmp",
    }
    assert pod["terminationGracePeriodSeconds"] == 330


@pytest.mark.parametrize("spec", [replace(SPEC, claims=("w",)), JOB], ids=["worker", "verify"])
def test_claims_are_mounted_read_only(spec: WorkersSpec | VerifySpec) -> None:
    pod = pod_spec(spec)
    assert {"name": "claim-0", "mountPath": "/pvc/w", "readOnly": True} in pod["containers"][0][
        "volumeMounts"
    ]
    assert {"name": "claim-0", "persistentVolumeClaim": {"claimName": "w", "readOnly": True}} in pod[
        "volumes"
    ]


@pytest.mark.parametrize("value", ['"},"privileged":true,{"', "{{ 7*7 }}", "a\\b\n<>&'"])
def test_a_value_cannot_change_the_shape_of_an_object(value: str) -> None:
    deployment = pool_children(replace(SPEC, image=value), "KEY")["Deployment"]
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == value
    assert pod_spec(replace(SPEC, image=value)).keys() == pod_spec(SPEC).keys()


def test_the_hash_tells_whether_anything_differs() -> None:
    one, same, other = (pool_children(s, "KEY") for s in (SPEC, SPEC, replace(SPEC, replicas=3)))
    assert one == same
    assert hash_of(one["Deployment"]) != hash_of(other["Deployment"])
    assert hash_of(one["Service"]) == hash_of(other["Service"])
    assert one["Service"]["metadata"]["annotations"] == {HASH_ANNOTATION: hash_of(one["Service"])}


def test_a_job_with_other_work_has_another_name() -> None:
    one, other = verify_job(JOB), verify_job(replace(JOB, image="img:2"))
    assert one["metadata"]["name"].startswith("shapes-1-verify-")
    assert one["metadata"]["name"] != other["metadata"]["name"]
    assert verify_job(JOB) == one
    assert len(verify_job(replace(JOB, model="m" * 45))["metadata"]["name"]) <= 63


def test_a_job_gives_up_goes_away_and_holds_no_accelerator() -> None:
    job = verify_job(JOB)["spec"]
    assert (job["backoffLimit"], job["ttlSecondsAfterFinished"]) == (2, 300)
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["template"]["spec"]["containers"][0]["args"] == ["verify", "--uri", "pvc://w/a"]


LOCAL = SourceSpec("pvc://w/a", "/pvc/w/a", "w", "sha256:x")
HUB = SourceSpec("hf://a/b@c", secret="hub")
LORA = SourceSpec("s3://loras/pixel", digest="sha256:ab", secret="bucket")


def test_the_check_is_told_what_the_spec_knows() -> None:
    found = described(model(), source=LOCAL, pipeline={"className": "FluxPipeline"})
    made = verify_spec(found, WorkerDefaults("img"))
    assert made is not None
    assert made.arguments == (
        "verify", "--uri", "pvc://w/a", "--digest", "sha256:x", "--class-name", "FluxPipeline",
    )  # fmt: skip
    assert (made.claims, made.secrets, made.cache) == (("w",), (), None)


def test_the_check_is_told_of_credentials_and_adapters() -> None:
    adapters = {"pixel": LORA, "ink": SourceSpec("file:///loras/ink", "/loras/ink")}
    made = verify_spec(described(model(), source=HUB, adapters=adapters), WorkerDefaults("img"))
    assert made is not None
    assert made.arguments == (
        "verify", "--uri", "hf://a/b@c", "--credentials", "/secrets/hub",
        "--adapter", "pixel=s3://loras/pixel#sha256:ab", "--adapter-credentials", "pixel=/secrets/bucket",
        "--adapter", "ink=file:///loras/ink",
    )  # fmt: skip
    assert (made.secrets, made.cache) == (("bucket", "hub"), NodeCache())


def test_a_pool_takes_its_claims_from_its_models_and_its_image_from_the_operator() -> None:
    on_claim = described(model("shapes-1"), source=LOCAL)
    made = workers_spec(
        observed(models={"shapes-1": on_claim, "gone": None}), WorkerDefaults("img:operator"), NOW
    )
    assert made is not None
    assert (made.claims, made.image) == (("w",), "img:operator")
    assert (
        workers_spec(observed(pool=replace(pool(), spec=None), models={}), WorkerDefaults("img"), NOW) is None
    )


def test_another_model_with_a_secret_that_is_mounted_already_restarts_no_worker() -> None:
    one = described(model("shapes-1"), source=HUB, adapters={"pixel": LORA})
    another = described(model("shapes-2"), source=replace(HUB, uri="hf://a/other@d"))
    defaults = WorkerDefaults("img")
    alone = workers_spec(observed(models={"shapes-1": one}), defaults, NOW)
    both = workers_spec(observed(models={"shapes-2": another, "shapes-1": one}), defaults, NOW)
    assert alone is not None
    assert alone.secrets == ("bucket", "hub")
    assert both == alone


def test_secrets_are_mounted_read_only_under_their_names_and_may_be_missing() -> None:
    pod = pod_spec(FETCHING)
    mounts = pod["containers"][0]["volumeMounts"]
    assert {"name": "secret-1", "mountPath": "/secrets/hub.token", "readOnly": True} in mounts
    assert {"name": "secret-1", "secret": {"secretName": "hub.token", "optional": True}} in pod["volumes"]


@pytest.mark.parametrize("spec", [SPEC, FETCH_JOB], ids=["worker", "fetch"])
@pytest.mark.parametrize(
    ("cache", "want_group"),
    [
        (NodeCache({"hostPath": {"path": "/var/cache", "type": "Directory"}}, 5), None),
        (NodeCache({"persistentVolumeClaim": {"claimName": "cache"}}, 5, group=True), 65532),
    ],
    ids=["a folder of the node", "a claim"],
)
def test_the_node_cache_is_where_the_settings_say(
    spec: WorkersSpec | VerifySpec, cache: NodeCache, want_group: int | None
) -> None:
    pod = pod_spec(replace(spec, cache=cache, source_limit_bytes=7))
    assert {"name": "cache", **cache.volume} in pod["volumes"]
    container = pod["containers"][0]
    assert {"name": "cache", "mountPath": "/cache"} in container["volumeMounts"]
    variables = {e["name"]: e.get("value") for e in container["env"]}
    assert variables.items() >= {
        "IMAGEFLEET_CACHE_DIR": "/cache", "IMAGEFLEET_CACHE_BYTES": "5", "IMAGEFLEET_SOURCE_LIMIT_BYTES": "7",
    }.items()  # fmt: skip
    assert pod["securityContext"].get("fsGroup") == want_group


def test_a_check_that_fetches_nothing_needs_no_cache_and_less_time() -> None:
    job, fetch = verify_job(JOB)["spec"], verify_job(FETCH_JOB)["spec"]
    assert "cache" not in {volume["name"] for volume in pod_spec(JOB)["volumes"]}
    assert job["activeDeadlineSeconds"] < fetch["activeDeadlineSeconds"]


@pytest.mark.parametrize("spec", [SPEC, JOB], ids=["worker", "verify"])
def test_further_variables_reach_every_pod_and_go_before_ours(spec: WorkersSpec | VerifySpec) -> None:
    proxy, home = {"name": "HTTPS_PROXY", "value": "http://proxy:3128"}, {"name": "HOME", "value": "/cache"}
    env = pod_spec(replace(spec, env=(proxy, home)))["containers"][0]["env"]
    assert proxy in env
    assert [variable for variable in env if variable["name"] == "HOME"] == [home]


def test_a_check_runs_under_the_account_that_the_settings_name() -> None:
    assert pod_spec(replace(JOB, account="fetcher"))["serviceAccountName"] == "fetcher"
    assert "serviceAccountName" not in pod_spec(JOB)
