"""What the local cluster promises to every other test: pods behave as they would on a real node."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from pathlib import Path

import pytest

from tests.cluster import processes
from tests.cluster.cluster import PATIENCE, Cluster, KubectlError, wait_for
from tests.integration.pods import (
    Object,
    apply,
    commands_with,
    conditions,
    container,
    finish,
    main_status,
    pod,
    run,
)
from tests.plugins.cluster import Kubectl

RESTRICTED = {
    "runAsNonRoot": True,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="without root a container has one user: who started it"
)


class TestIdentity:
    @as_root
    def test_a_restricted_pod_is_nobody_and_owns_nothing(self, kubectl: Kubectl) -> None:
        script = """
            id -u; id -g
            grep -E 'NoNewPrivs|CapBnd|CapEff' /proc/self/status
            touch /etc/written 2>/dev/null || echo 'root is read-only'
            touch /tmp/written 2>/dev/null || echo 'so is /tmp'
            touch /dev/shm/written && echo 'shared memory is not'
            python -c 'import aiohttp, sys; print(sys.prefix)'
            """
        apply(kubectl, pod("once", container(script, securityContext=RESTRICTED)))
        lines = finish(kubectl, "once").split("\n")
        assert lines[:2] == ["65532", "65532"]
        assert lines[2:5] == ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"]
        assert lines[5:9] == ["root is read-only", "so is /tmp", "shared memory is not", sys.prefix]

    @as_root
    def test_user_and_groups_are_those_of_the_security_context(self, kubectl: Kubectl) -> None:
        context = {"runAsUser": 1234, "runAsGroup": 2345, "fsGroup": 3456, "supplementalGroups": [4567]}
        said = run(kubectl, "id -u; id -G", securityContext=context)
        assert said.split("\n")[:2] == ["1234", "2345 3456 4567"]

    def test_its_token_says_which_service_account_it_is(self, cluster: Cluster, kubectl: Kubectl) -> None:
        kubectl("create", "serviceaccount", "painter")
        script = """
            cd /var/run/secrets/kubernetes.io/serviceaccount
            curl -sS --cacert ca.crt -H "Authorization: Bearer $(cat token)" \
              -H 'Content-Type: application/json' -d '{"spec": {}}' \
              https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/apis/authentication.k8s.io/v1/selfsubjectreviews
            """
        apply(
            kubectl, pod("once", container(script, securityContext=RESTRICTED), serviceAccountName="painter")
        )
        user = json.loads(finish(kubectl, "once"))["status"]["userInfo"]
        assert user["username"] == f"system:serviceaccount:{kubectl.namespace}:painter"
        assert user["extra"]["authentication.kubernetes.io/pod-name"] == ["once"]

    def test_a_projected_token_has_its_own_audience(self, kubectl: Kubectl) -> None:
        source = {"serviceAccountToken": {"audience": "gateway", "expirationSeconds": 600, "path": "gateway"}}
        volumes = [{"name": "tokens", "projected": {"sources": [source]}}]
        mounts = [{"name": "tokens", "mountPath": "/tokens"}]
        apply(kubectl, pod("once", container("cat /tokens/gateway", volumeMounts=mounts), volumes=volumes))
        payload = finish(kubectl, "once").split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        assert claims["aud"] == ["gateway"]

    def test_pod_security_admission_is_on(self, kubectl: Kubectl) -> None:
        kubectl("label", "namespace", kubectl.namespace, "pod-security.kubernetes.io/enforce=restricted")
        with pytest.raises(KubectlError, match="violates PodSecurity"):
            apply(kubectl, pod("once", container("true")))


class TestEnvironment:
    def test_values_come_from_everywhere(self, kubectl: Kubectl) -> None:
        kubectl("create", "configmap", "settings", "--from-literal=colour=red")
        kubectl("create", "secret", "generic", "keys", "--from-literal=token=s3cret")
        fields = {
            "NAME": "metadata.name",
            "APP": "metadata.labels['app']",
            "IP": "status.podIP",
            "NODE": "spec.nodeName",
        }
        env = [
            *({"name": k, "valueFrom": {"fieldRef": {"fieldPath": v}}} for k, v in fields.items()),
            {"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}},
            {
                "name": "LIMIT",
                "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}},
            },
            {"name": "ALL", "value": "$(NAME) $(APP) $(NODE) $(COLOUR) $(LIMIT) $(KEY_token) $$(NAME)"},
        ]
        more = {
            "env": env,
            "envFrom": [{"prefix": "KEY_", "secretRef": {"name": "keys"}}],
            "args": ["$(ALL)"],
            "resources": {"limits": {"memory": "1Gi"}},
            "workingDir": "/somewhere/new",
        }
        script = 'echo "$0"; echo "$IP $IMAGEFLEET_HOST"; pwd'
        apply(kubectl, pod("once", container(script, **more)))
        said = finish(kubectl, "once").split("\n")
        assert said[0] == "once once node-1 red 1024 s3cret $(NAME)"
        ip = kubectl.get("pod", "once")["status"]["podIP"]
        assert said[1:3] == [f"{ip} {ip}", "/somewhere/new"]
        assert ip.startswith("127.0.")

    def test_a_container_without_a_command_says_why_it_waits(self, kubectl: Kubectl) -> None:
        apply(kubectl, pod("mute", {"name": "main", "image": "somebody/something"}))
        wait_for(lambda: "message" in str(main_status(kubectl, "mute")))
        waiting = main_status(kubectl, "mute")["state"]["waiting"]
        assert waiting["reason"] == "CreateContainerConfigError"
        assert "has no command" in waiting["message"]


class TestVolumes:
    def test_each_kind_holds_what_it_should(self, kubectl: Kubectl, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)  # pytest's are for their owner alone, and the pod is somebody else
        (tmp_path / "weights").write_text("host")
        kubectl("create", "configmap", "settings", "--from-literal=a=map", "--from-literal=b=other")
        kubectl("create", "secret", "generic", "keys", "--from-literal=token=s3cret")
        label = {"path": "app", "fieldRef": {"fieldPath": "metadata.labels['app']"}}
        volumes = [
            {
                "name": "map",
                "configMap": {"name": "settings", "items": [{"key": "a", "path": "deep/renamed"}]},
            },
            {"name": "secret", "secret": {"secretName": "keys", "defaultMode": 0o400}},
            {"name": "facts", "downwardAPI": {"items": [label]}},
            {"name": "host", "hostPath": {"path": str(tmp_path)}},
            {"name": "scratch", "emptyDir": {}},
        ]
        mounts = [
            {"name": "map", "mountPath": "/etc/new/map"},
            {"name": "map", "mountPath": "/single", "subPath": "deep/renamed"},
            {"name": "secret", "mountPath": "/secret"},
            {"name": "facts", "mountPath": "/facts"},
            {"name": "host", "mountPath": "/models", "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp"},
        ]
        script = """
            echo $(cat /etc/new/map/deep/renamed /single)
            echo $(cat /secret/token) $(stat -c %a /secret/token)
            cat /facts/app; echo
            cat /models/weights; echo
            touch /models/x 2>/dev/null || echo read-only
            touch /tmp/x && echo writable
            """
        main = container(script, volumeMounts=mounts, securityContext=RESTRICTED)
        group = {"runAsUser": 1000, "fsGroup": 2000}
        apply(kubectl, pod("once", main, volumes=volumes, securityContext=group))
        # 0440: a group was given, so the group may read what only the owner could.
        assert finish(kubectl, "once").split("\n")[:6] == [
            "mapmap", "s3cret 440", "once", "host", "read-only", "writable"
        ]  # fmt: skip

    def test_a_claim_bound_to_a_static_volume(
        self, cluster: Cluster, kubectl: Kubectl, tmp_path: Path
    ) -> None:
        (tmp_path / "weights").write_text("from the claim")
        name = f"models-{kubectl.namespace}"
        size = {"storage": "1Gi"}
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "capacity": size,
                "accessModes": ["ReadOnlyMany"],
                "hostPath": {"path": str(tmp_path)},
                "storageClassName": "",
                "claimRef": {"name": "models", "namespace": kubectl.namespace},
            },
        }
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "models"},
            "spec": {
                "accessModes": ["ReadOnlyMany"],
                "storageClassName": "",
                "resources": {"requests": size},
            },
        }
        mounts = [{"name": "models", "mountPath": "/pvc/models"}]
        main = container("cat /pvc/models/weights; touch /pvc/models/x || true", volumeMounts=mounts)
        volumes = [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}]
        apply(kubectl, volume, claim, pod("once", main, volumes=volumes))
        try:
            assert "from the claim" in finish(kubectl, "once")
            assert [path.name for path in tmp_path.iterdir()] == ["weights"]
        finally:
            cluster.kubectl("delete", "pv", name, "--wait=false")

    def test_a_pod_waits_for_a_volume_that_comes_later(self, kubectl: Kubectl) -> None:
        volumes = [{"name": "late", "configMap": {"name": "late"}}]
        main = container("cat /late/a", volumeMounts=[{"name": "late", "mountPath": "/late"}])
        apply(kubectl, pod("once", main, volumes=volumes))
        wait_for(lambda: "FailedMount" in kubectl("get", "events"))
        assert kubectl.get("pod", "once")["status"]["phase"] == "Pending"
        kubectl("create", "configmap", "late", "--from-literal=a=there")
        assert finish(kubectl, "once") == "there"


SERVER = """
    cd /state
    exec python -c '
    import http.server, os
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if os.path.exists("/state" + self.path) else 503)
            self.end_headers()
    http.server.ThreadingHTTPServer((os.environ["IMAGEFLEET_HOST"], 8080), Handler).serve_forever()
    '
    """


class TestLife:
    def test_probes_decide_about_readiness_and_life(self, kubectl: Kubectl, tmp_path: Path) -> None:
        for name in ("started", "alive"):
            (tmp_path / name).touch()

        def probe(path: str) -> Object:
            return {"httpGet": {"path": path, "port": "http"}, "periodSeconds": 1, "failureThreshold": 2}

        server = container(
            SERVER,
            ports=[{"name": "http", "containerPort": 8080}],
            startupProbe=probe("/started") | {"failureThreshold": 20},
            readinessProbe=probe("/ready"),
            livenessProbe={
                "terminationGracePeriodSeconds": 1,
                "exec": {"command": ["test", "-e", "/state/alive"]},
                "periodSeconds": 1,
            },
            volumeMounts=[{"name": "state", "mountPath": "/state"}],
        )
        volumes = [{"name": "state", "hostPath": {"path": str(tmp_path)}}]
        apply(kubectl, pod("probed", server, volumes=volumes, restartPolicy="Always"))
        wait_for(lambda: main_status(kubectl, "probed").get("started"))
        assert conditions(kubectl, "probed")["Ready"] == "False"
        (tmp_path / "ready").touch()
        kubectl("wait", "--for=condition=Ready", "pod/probed", PATIENCE)
        (tmp_path / "alive").unlink()
        wait_for(lambda: main_status(kubectl, "probed").get("restartCount"))
        (tmp_path / "alive").touch()
        wait_for(lambda: "Liveness probe failed" in kubectl("get", "events"))
        kubectl("wait", "--for=condition=Ready", "pod/probed", PATIENCE)
        assert main_status(kubectl, "probed")["restartCount"] == 1

    def test_a_killed_process_comes_back_with_its_history(self, cluster: Cluster, kubectl: Kubectl) -> None:
        apply(kubectl, pod("phoenix", container("echo run; exec sleep 1000"), restartPolicy="Always"))
        kubectl("wait", "--for=condition=Ready", "pod/phoenix", PATIENCE)
        first = cluster.pid(kubectl.namespace, "phoenix")
        cluster.kill(kubectl.namespace, "phoenix")
        again = wait_for(
            lambda: (s := main_status(kubectl, "phoenix"))["restartCount"] == 1 and s["ready"] and s
        )
        assert again["lastState"]["terminated"]["exitCode"] == 137
        assert cluster.pid(kubectl.namespace, "phoenix") != first
        assert kubectl("logs", "phoenix", "--previous") == "run\n"
        cluster.kill(kubectl.namespace, "phoenix")
        wait_for(lambda: "CrashLoopBackOff" in str(main_status(kubectl, "phoenix")["state"]))
        wait_for(lambda: main_status(kubectl, "phoenix")["restartCount"] == 2)

    def test_init_containers_and_sidecars_come_first(self, kubectl: Kubectl) -> None:
        mounts = [{"name": "shared", "mountPath": "/shared"}]
        init = [
            {**container("echo init >> /shared/order", volumeMounts=mounts), "name": "init"},
            {
                **container("echo sidecar >> /shared/order; exec sleep 1000", volumeMounts=mounts),
                "name": "sidecar",
                "restartPolicy": "Always",
                "startupProbe": {
                    "exec": {"command": ["grep", "sidecar", "/shared/order"]},
                    "periodSeconds": 1,
                },
            },
        ]
        main = container("cat /shared/order", volumeMounts=mounts)
        apply(
            kubectl, pod("ordered", main, initContainers=init, volumes=[{"name": "shared", "emptyDir": {}}])
        )
        assert finish(kubectl, "ordered") == "init\nsidecar\n"

    def test_deletion_is_graceful(self, cluster: Cluster, kubectl: Kubectl, tmp_path: Path) -> None:
        script = """
            trap 'echo term >> /seen/log; sleep 1; echo done >> /seen/log; exit 0' TERM
            sleep 1000 & wait
            """
        main = container(
            script,
            volumeMounts=[{"name": "seen", "mountPath": "/seen"}],
            lifecycle={"preStop": {"exec": {"command": ["sh", "-c", "echo hook >> /seen/log"]}}},
        )
        volumes = [{"name": "seen", "hostPath": {"path": str(tmp_path)}}]
        apply(kubectl, pod("polite", main, volumes=volumes, terminationGracePeriodSeconds=30))
        kubectl("wait", "--for=condition=Ready", "pod/polite", PATIENCE)
        pid = cluster.pid(kubectl.namespace, "polite")
        kubectl("delete", "pod", "polite", "--wait=false")
        wait_for(lambda: conditions(kubectl, "polite")["Ready"] == "False")
        kubectl("wait", "--for=delete", "pod/polite", PATIENCE)
        assert (tmp_path / "log").read_text().split() == ["hook", "term", "done"]
        assert processes.start_time(pid) is None

    def test_what_ignores_sigterm_is_killed_after_the_grace_period(
        self, cluster: Cluster, kubectl: Kubectl
    ) -> None:
        script = "trap '' TERM; (setsid sleep 1001 &) ; while true; do sleep 0.2; done"
        apply(kubectl, pod("stubborn", container(script), terminationGracePeriodSeconds=1))
        kubectl("wait", "--for=condition=Ready", "pod/stubborn", PATIENCE)
        began = time.monotonic()
        kubectl("delete", "pod", "stubborn")
        assert 1 <= time.monotonic() - began < 30  # what a pod has that asks for no other
        assert not commands_with("sleep\x001001")

    def test_a_job_reports_through_its_termination_message(self, kubectl: Kubectl) -> None:
        script = 'echo "{\\"bytes\\": 42}" > /dev/termination-log'
        spec = pod("template", container(script, securityContext=RESTRICTED))["spec"]
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "verify"}}
        apply(kubectl, {**job, "spec": {"template": {"spec": spec}}})
        kubectl("wait", "--for=condition=Complete", "job/verify", PATIENCE)
        (done,) = kubectl.get("pods", "-l", "job-name=verify")["items"]
        assert done["status"]["containerStatuses"][0]["state"]["terminated"]["message"] == '{"bytes": 42}\n'

    def test_the_end_of_the_log_explains_a_failure(self, kubectl: Kubectl) -> None:
        main = container("echo cannot open weights; exit 3", terminationMessagePolicy="FallbackToLogsOnError")
        apply(kubectl, pod("failing", main))
        finish(kubectl, "failing", "Failed")
        terminated = main_status(kubectl, "failing")["state"]["terminated"]
        assert (terminated["exitCode"], terminated["reason"]) == (3, "Error")
        assert terminated["message"] == "cannot open weights\n"

    def test_a_command_that_does_not_exist_is_a_start_error(self, kubectl: Kubectl) -> None:
        apply(kubectl, pod("lost", {"name": "main", "image": "any", "command": ["no-such-program"]}))
        kubectl("wait", "--for=jsonpath={.status.phase}=Failed", "pod/lost", PATIENCE)
        terminated = main_status(kubectl, "lost")["state"]["terminated"]
        assert (terminated["reason"], terminated["exitCode"]) == ("StartError", 128)
        assert "not found in $PATH" in terminated["message"]

    def test_logs_can_be_followed(self, cluster: Cluster, kubectl: Kubectl) -> None:
        apply(kubectl, pod("talker", container("for i in 1 2 3; do echo line $i; sleep 0.3; done")))
        wait_for(lambda: main_status(kubectl, "talker").get("state", {}).get("waiting") is None)
        assert kubectl("logs", "-f", "talker") == "line 1\nline 2\nline 3\n"
        assert kubectl("logs", "talker", "--tail=1") == "line 3\n"
