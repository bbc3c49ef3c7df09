"""What the chart renders, without a cluster."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from imagefleet_operator.plan.workers import NodeCache, WorkerDefaults
from imagefleet_operator.settings import parse_settings

from tests.cluster.fleet import CHART
from tests.integration.helm import VALUE_SETS, Helm, HelmError, Object, of_kind, pod_specs

Values = dict[str, Any]

DIGEST = "sha256:" + "0123456789abcdef" * 4
SOURCE_CRDS = [yaml.safe_load(path.read_text()) for path in sorted((CHART / "files" / "crds").glob("*.yaml"))]


def each_component(image: dict[str, str]) -> Values:
    return {component: {"image": image} for component in ("operator", "gateway", "worker")}


@pytest.fixture(scope="module")
def helm() -> Helm:
    return Helm()


@pytest.fixture(scope="module")
def default(helm: Helm) -> list[Object]:
    return helm.template()


def names(objects: list[Object]) -> set[tuple[str, str]]:
    return {(found["kind"], found["metadata"]["name"]) for found in objects}


def test_the_default_installs_these_objects_and_no_others(default: list[Object]) -> None:
    assert names(default) == {
        *(("CustomResourceDefinition", crd["metadata"]["name"]) for crd in SOURCE_CRDS),
        ("Secret", "fleet-imagefleet-caller-key"),
        ("ClusterRole", "fleet-imagefleet-view"),
        ("ClusterRole", "fleet-imagefleet-edit"),
        *(
            (kind, f"fleet-imagefleet-{component}")
            for component in ("operator", "gateway")
            for kind in ("Deployment", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "NetworkPolicy")
        ),
        ("Role", "fleet-imagefleet-operator"),
        ("RoleBinding", "fleet-imagefleet-operator"),
        ("Service", "fleet-imagefleet-gateway"),
        ("PodDisruptionBudget", "fleet-imagefleet-gateway"),
        ("NetworkPolicy", "fleet-imagefleet-workers"),
    }


def test_what_can_be_left_out_is_left_out(helm: Helm) -> None:
    kinds = {kind for kind, _ in names(helm.template(VALUE_SETS["minimal"]))}
    assert kinds == {
        "ClusterRole", "ClusterRoleBinding", "Deployment", "Role", "RoleBinding", "Service", "ServiceAccount",
    }  # fmt: skip


@pytest.mark.parametrize("release", ["imagefleet", "my-imagefleet"])
def test_a_release_named_after_the_chart_does_not_repeat_the_name(helm: Helm, release: str) -> None:
    rendered = helm.run("template", release, str(CHART), "--kube-version=1.36.0")
    deployments = of_kind(list(yaml.safe_load_all(rendered)), "Deployment")
    assert set(deployments) == {f"{release}-operator", f"{release}-gateway"}


def test_crds_are_the_generated_ones_and_stay_when_the_release_goes(default: list[Object]) -> None:
    rendered = of_kind(default, "CustomResourceDefinition")
    assert len(SOURCE_CRDS) == 2
    for source in SOURCE_CRDS:
        crd = rendered[source["metadata"]["name"]]
        assert crd["spec"] == source["spec"]
        assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        assert crd["metadata"]["labels"].items() >= source["metadata"].get("labels", {}).items()


def test_the_caller_key_is_an_ed25519_key_in_pkcs8(default: list[Object]) -> None:
    secret = of_kind(default, "Secret")["fleet-imagefleet-caller-key"]
    pem = base64.b64decode(secret["data"]["caller.pem"])
    assert pem.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert isinstance(load_pem_private_key(pem, password=None), Ed25519PrivateKey)


def test_each_installation_gets_a_key_of_its_own(helm: Helm, default: list[Object]) -> None:
    again = of_kind(helm.template(), "Secret")["fleet-imagefleet-caller-key"]
    assert again["data"] != of_kind(default, "Secret")["fleet-imagefleet-caller-key"]["data"]


@pytest.mark.parametrize(
    ("values", "secret", "key"),
    [
        ({}, "fleet-imagefleet-caller-key", "caller.pem"),
        ({"callerKey": {"existingSecret": "own"}}, "own", "caller.pem"),
        ({"callerKey": {"existingSecret": "own", "existingSecretKey": "key"}}, "own", "key"),
        (
            {"callerKey": {"existingSecretKey": "unused-without-secret"}},
            "fleet-imagefleet-caller-key",
            "caller.pem",
        ),
    ],
)
def test_both_programs_find_the_key_where_they_are_told(
    helm: Helm, values: Values, secret: str, key: str
) -> None:
    for spec in pod_specs(helm.template(values)).values():
        (volume,) = [volume["secret"] for volume in spec["volumes"] if "secret" in volume]
        assert (volume["secretName"], volume["items"]) == (secret, [{"key": key, "path": "caller.pem"}])
        (mount,) = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "caller-key"]
        assert environment(spec)["IMAGEFLEET_CALLER_KEY_FILE"] == mount["mountPath"] + "/caller.pem"


def environment(spec: Object) -> dict[str, str | None]:
    return {variable["name"]: variable.get("value") for variable in spec["containers"][0]["env"]}


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ({}, "imagefleet-{}:0.1.0"),
        ({"image": {"registry": "example.com/team"}}, "example.com/team/imagefleet-{}:0.1.0"),
        ({"image": {"registry": "localhost:5000/"}}, "localhost:5000/imagefleet-{}:0.1.0"),
        ({"image": {"tag": "2.0"}}, "imagefleet-{}:2.0"),
        ({"image": {"tag": "2.0"}, **each_component({"tag": "1.9"})}, "imagefleet-{}:1.9"),
        (each_component({"tag": "1.9", "digest": DIGEST}), "imagefleet-{}@" + DIGEST),
    ],
)  # fmt: skip
def test_images_are_named_by_registry_tag_and_digest(helm: Helm, values: Values, image: str) -> None:
    specs = pod_specs(helm.template(values))
    operator, gateway = specs["fleet-imagefleet-operator"], specs["fleet-imagefleet-gateway"]
    assert operator["containers"][0]["image"] == image.format("operator")
    assert gateway["containers"][0]["image"] == image.format("gateway")
    assert environment(operator)["IMAGEFLEET_WORKER_IMAGE"] == image.format("worker")


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ({}, WorkerDefaults("imagefleet-worker:0.1.0")),
        (
            {"modelCache": {"type": "hostPath", "hostPath": "/mnt/nvme", "sizeBytes": 2 * 10**12}},
            WorkerDefaults(
                "imagefleet-worker:0.1.0",
                NodeCache({"hostPath": {"path": "/mnt/nvme", "type": "Directory"}}, 2 * 10**12),
            ),
        ),
        (
            VALUE_SETS["full"],
            WorkerDefaults(
                "registry.example.com:5000/team/imagefleet-worker:1.2.3",
                NodeCache({"persistentVolumeClaim": {"claimName": "models"}}, 2**40, group=True),
                100 * 2**30,
                (
                    {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector.monitoring:4318"},
                    {"name": "HF_ENDPOINT", "value": "https://hub.example.com"},
                ),
                "model-reader",
            ),
        ),
    ],
    ids=["default", "a folder of the nodes", "everything"],
)
def test_the_operator_understands_what_it_is_told_of_workers(
    helm: Helm, values: Values, want: WorkerDefaults
) -> None:
    (spec,) = [spec for name, spec in pod_specs(helm.template(values)).items() if name.endswith("-operator")]
    told = {name: value for name, value in environment(spec).items() if value is not None}
    assert parse_settings([], {**told, "POD_NAMESPACE": "fleet-system"}).workers == want


def test_a_variable_of_workers_is_not_expanded_in_the_operator(helm: Helm) -> None:
    values = {"worker": {"extraEnv": [{"name": "TOKEN_FILE", "value": "$(HOME)/token"}]}}
    spec = pod_specs(helm.template(values))["fleet-imagefleet-operator"]
    assert "$$(HOME)/token" in str(environment(spec)["IMAGEFLEET_WORKER_ENV"])


def test_a_gateway_may_use_its_whole_grace_but_the_last_quarter_minute(helm: Helm) -> None:
    values = {"gateway": {"holdSeconds": 45, "terminationGracePeriodSeconds": 900}}
    spec = pod_specs(helm.template(values))["fleet-imagefleet-gateway"]
    assert spec["terminationGracePeriodSeconds"] == 900
    assert environment(spec)["IMAGEFLEET_GRACE_SECONDS"] == "885"
    assert environment(spec)["IMAGEFLEET_HOLD_SECONDS"] == "45"
    assert environment(spec)["IMAGEFLEET_BATCH_HOLD_SECONDS"] == "300"
    assert environment(spec)["IMAGEFLEET_AHEAD_SECONDS"] == "3"


@pytest.mark.parametrize("value_set", VALUE_SETS)
def test_no_rule_names_everything(helm: Helm, value_set: str) -> None:
    objects = helm.template(VALUE_SETS[value_set])
    for role in [*of_kind(objects, "ClusterRole").values(), *of_kind(objects, "Role").values()]:
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"], role["metadata"]["name"]


@pytest.mark.parametrize(
    ("component", "may_delete"), [("operator", {"deployments", "daemonsets"}), ("gateway", set())]
)
def test_neither_program_may_read_secrets_or_delete_more_than_what_it_made(
    component: str, may_delete: set[str], default: list[Object]
) -> None:
    rules = of_kind(default, "ClusterRole")[f"fleet-imagefleet-{component}"]["rules"]
    assert "secrets" not in [resource for rule in rules for resource in rule["resources"]]
    deletes = [rule for rule in rules if "delete" in rule["verbs"]]
    assert {resource for rule in deletes for resource in rule["resources"]} == may_delete


def test_the_gateway_only_reads(default: list[Object]) -> None:
    rules = of_kind(default, "ClusterRole")["fleet-imagefleet-gateway"]["rules"]
    assert {verb for rule in rules for verb in rule["verbs"]} == {"list", "watch"}


@pytest.mark.parametrize("value_set", ["default", "full"])
def test_every_object_and_pod_carries_the_recommended_labels(helm: Helm, value_set: str) -> None:
    objects = helm.template(VALUE_SETS[value_set])
    wanted = {"app.kubernetes.io/part-of": "imagefleet", **VALUE_SETS[value_set].get("commonLabels", {})}
    for found in objects:
        assert (
            found["metadata"]["labels"].items() >= {**wanted, "app.kubernetes.io/managed-by": "Helm"}.items()
        )
    for deployment in of_kind(objects, "Deployment").values():
        pod = deployment["spec"]["template"]["metadata"]["labels"]
        assert pod.items() >= {**wanted, **deployment["spec"]["selector"]["matchLabels"]}.items()


def test_another_chart_version_alone_restarts_no_pod(default: list[Object]) -> None:
    for deployment in of_kind(default, "Deployment").values():
        assert "helm.sh/chart" not in deployment["spec"]["template"]["metadata"]["labels"]


def test_everything_that_can_be_set_arrives(helm: Helm) -> None:
    values = VALUE_SETS["full"]
    objects = helm.template(values)
    for component in ("operator", "gateway"):
        given = values[component]
        spec = pod_specs(objects)[f"fleet-{component}"]
        for name in (
            "nodeSelector",
            "tolerations",
            "affinity",
            "priorityClassName",
            "topologySpreadConstraints",
        ):
            assert spec[name] == given[name]
        assert spec["imagePullSecrets"] == values["image"]["pullSecrets"]
        assert spec["containers"][0]["imagePullPolicy"] == "Always"
        assert environment(spec)["HTTPS_PROXY"] == "http://proxy:3128"
        assert environment(spec)["IMAGEFLEET_LOG_LEVEL"] == "debug"
        assert spec["serviceAccountName"] == given["serviceAccount"]["name"]
        metadata = of_kind(objects, "Deployment")[f"fleet-{component}"]["spec"]["template"]["metadata"]
        assert metadata["annotations"].items() >= given["podAnnotations"].items()
        assert metadata["labels"].items() >= given["podLabels"].items()
    service = of_kind(objects, "Service")["fleet-gateway"]
    assert service["metadata"]["annotations"] == values["gateway"]["service"]["annotations"]
    assert (service["spec"]["type"], service["spec"]["ports"][0]["port"]) == ("LoadBalancer", 80)
    assert of_kind(objects, "PodDisruptionBudget")["fleet-gateway"]["spec"]["maxUnavailable"] == "50%"


def test_the_service_account_token_is_only_mounted_where_it_is_used(default: list[Object]) -> None:
    assert {
        account["automountServiceAccountToken"] for account in of_kind(default, "ServiceAccount").values()
    } == {False}
    assert {spec["automountServiceAccountToken"] for spec in pod_specs(default).values()} == {True}


def test_user_ids_can_be_left_to_the_cluster(helm: Helm) -> None:
    free = {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}}
    for spec in pod_specs(helm.template({"operator": free, "gateway": free})).values():
        assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_pod_monitors_find_the_operator_the_gateway_and_workers_of_all_namespaces(helm: Helm) -> None:
    monitors = of_kind(
        helm.template({"podMonitor": {"enabled": True, "labels": {"release": "p"}}}), "PodMonitor"
    )
    selected = {
        monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"]: monitor["spec"].get(
            "namespaceSelector"
        )
        for monitor in monitors.values()
    }
    assert selected == {
        "imagefleet-operator": None,
        "imagefleet-gateway": None,
        "imagefleet-worker": {"any": True},
    }
    assert {monitor["metadata"]["labels"]["release"] for monitor in monitors.values()} == {"p"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gatway": {"replicas": 3}}, "additional properties 'gatway' not allowed"),
        ({"gateway": {"replica": 3}}, "at '/gateway': additional properties 'replica' not allowed"),
        ({"gateway": {"replicas": "three"}}, "at '/gateway/replicas': got string, want integer"),
        ({"operator": {"replicas": -1}}, "at '/operator/replicas': minimum: got -1, want 0"),
        ({"operator": {"logLevel": "loud"}}, "at '/operator/logLevel': value must be one of 'debug', 'info'"),
        ({"worker": {"image": {"digest": "0abc"}}}, "at '/worker/image/digest': '0abc' does not match"),
        ({"image": {"registry": "https://r"}}, "at '/image/registry': 'https://r' does not match"),
        ({"image": {"pullPolicy": "Sometimes"}}, "at '/image/pullPolicy': value must be one of 'Always'"),
        ({"image": {"pullSecrets": ["login"]}}, "at '/image/pullSecrets/0': got string, want object"),
        ({"commonLabels": {"app.kubernetes.io/name": "x"}}, "at '/commonLabels/app.kubernetes.io~1name'"),
        ({"gateway": {"holdSeconds": 4000}}, "at '/gateway/holdSeconds': maximum: got 4,000, want 3,600"),
        ({"gateway": {"terminationGracePeriodSeconds": 5}}, "minimum: got 5, want 30"),
        ({"gateway": {"service": {"type": "Ingress"}}}, "at '/gateway/service/type': value must be one of"),
        ({"gateway": {"podDisruptionBudget": {"maxUnavailable": 0}}}, "minimum: got 0, want 1"),
        ({"callerKey": {"existingSecret": "A B"}}, "at '/callerKey/existingSecret': 'A B' does not match"),
        ({"networkPolicy": {"gateway": {"from": [{"pod": {}}]}}}, "additional properties 'pod' not allowed"),
        ({"networkPolicy": {"egress": {"apiServerPorts": []}}}, "at '/networkPolicy/egress/apiServerPorts'"),
        ({"networkPolicy": {"workers": {"egress": [{"port": 443}]}}}, "additional properties 'port' not allowed"),
        ({"modelCache": {"type": "nfs"}}, "at '/modelCache/type': value must be one of 'emptyDir'"),
        ({"modelCache": {"type": "pvc"}}, "modelCache.type is pvc, so modelCache.claimName must name a claim"),
        ({"modelCache": {"hostPath": "cache"}}, "at '/modelCache/hostPath': 'cache' does not match"),
        ({"modelCache": {"sizeBytes": "1Ti"}}, "at '/modelCache/sizeBytes': got string, want integer"),
        ({"worker": {"extraEnv": [{"value": "x"}]}}, "at '/worker/extraEnv/0': missing property 'name'"),
        ({"tracing": {"otlpEndpoint": "collector:4318"}}, "at '/tracing/otlpEndpoint': 'collector:4318' does"),
        ({"podMonitor": {"interval": "often"}}, "at '/podMonitor/interval': 'often' does not match"),
        ({"crds": {"install": "yes"}}, "at '/crds/install': got string, want boolean"),
    ],
)  # fmt: skip
def test_mistakes_in_values_are_refused_and_named(helm: Helm, values: Values, message: str) -> None:
    with pytest.raises(HelmError) as refused:
        helm.template(values)
    assert message in str(refused.value)


def test_a_chart_that_lost_its_crds_says_how_to_mend_it(helm: Helm, tmp_path: Any) -> None:
    chart = tmp_path / "chart"
    for path in CHART.rglob("*"):
        if path.is_file() and "crds" not in path.parts:
            target = chart / path.relative_to(CHART)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    with pytest.raises(HelmError, match=r"crds\.install=false"):
        helm.run("template", "fleet", str(chart), "--kube-version=1.36.0")
