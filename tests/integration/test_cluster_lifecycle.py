"""The local cluster places pods as a real one would, and comes and goes without leaving anything behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import processes
from tests.cluster.audit import AuditLog
from tests.cluster.cluster import PATIENCE, REPOSITORY, Cluster, wait_for
from tests.cluster.node.config import NodeSpec
from tests.integration.pods import Object, apply, commands_with, container, finish, main_status, pod
from tests.plugins.cluster import Kubectl


class TestScheduling:
    def test_a_deployment_rolls_out_with_an_address_for_each_pod(self, kubectl: Kubectl) -> None:
        template = {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [container("exec sleep 1000")]},
        }
        template["spec"]["terminationGracePeriodSeconds"] = 0  # type: ignore[index]
        spec = {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template}
        apply(
            kubectl,
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec},
        )
        kubectl("rollout", "status", "deployment/web", PATIENCE)
        kubectl("set", "env", "deployment/web", "VERSION=2")
        kubectl("rollout", "status", "deployment/web", PATIENCE)
        pods = [p for p in kubectl.get("pods")["items"] if "deletionTimestamp" not in p["metadata"]]
        assert len({p["status"]["podIP"] for p in pods}) == len(pods) == 2

    def test_another_accelerator_is_on_another_node(self, cluster: Cluster, kubectl: Kubectl) -> None:
        cluster.add_node("amd-1", labels={"accelerator": "mi300"}, gpus=1, resource="amd.com/gpu")
        try:
            main = container("echo $0", args=["$(NODE)"], resources={"limits": {"amd.com/gpu": 1}})
            main["env"] = [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]
            apply(kubectl, pod("once", main, nodeSelector={"accelerator": "mi300"}))
            assert finish(kubectl, "once") == "amd-1\n"
        finally:
            cluster.remove_node("amd-1")

    def test_gpus_that_are_taken_are_not_given_twice(self, kubectl: Kubectl) -> None:
        def wants(count: int) -> Object:
            return container("exec sleep 1000", resources={"limits": {"nvidia.com/gpu": count}})

        apply(kubectl, pod("first", wants(6), terminationGracePeriodSeconds=0), pod("second", wants(3)))
        kubectl("wait", "--for=condition=Ready", "pod/first", PATIENCE)
        wait_for(lambda: "Insufficient nvidia.com/gpu" in json.dumps(kubectl.get("pod", "second")["status"]))
        kubectl("delete", "pod", "first")
        kubectl("wait", "--for=condition=Ready", "pod/second", PATIENCE)

    def test_the_audit_log_knows_who_wrote_what(self, kubectl: Kubectl, audit: AuditLog) -> None:
        mark = audit.mark()
        apply(kubectl, pod("quiet", container("exec sleep 1000")))
        kubectl("wait", "--for=condition=Ready", "pod/quiet", PATIENCE)
        writes = list(audit.events(since=mark, resource="pods", namespace=kubectl.namespace, writes=True))
        assert [(e.user, e.verb) for e in writes if e.user.endswith(":admin")] == [
            ("imagefleet:admin", "create")
        ]
        settled = audit.mark()
        time.sleep(2)
        assert not list(
            audit.events(since=settled, resource="pods", writes=True, namespace=kubectl.namespace)
        )


@pytest.fixture
def own_folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "own"
    Cluster(tmp_path / "own").stop()


class TestLifecycle:
    def test_up_and_down_twice_with_a_crashed_node_between(self, own_folder: Path) -> None:
        """Each `up` is a program of its own that ends: what it starts must be found again through files."""
        for _ in range(2):
            _cluster_command("up", own_folder)
            self._crash_and_recover(Cluster(own_folder), own_folder)
            _cluster_command("down", own_folder)
            assert not own_folder.exists()
            assert not commands_with(str(own_folder))

    def _crash_and_recover(self, own: Cluster, folder: Path) -> None:
        kubectl = Kubectl(own, "default")
        apply(kubectl, pod("survivor", container("exec sleep 1000"), restartPolicy="Always"))
        kubectl("wait", "--for=condition=Ready", "pod/survivor", PATIENCE)
        pid = own.pid("default", "survivor")
        (node,) = own.node_processes()
        os.kill(node.pid, signal.SIGKILL)
        wait_for(lambda: processes.start_time(pid) is None)
        _cluster_command("up", folder)
        assert wait_for(lambda: main_status(kubectl, "survivor")["restartCount"]) == 1
        wait_for(lambda: main_status(kubectl, "survivor")["ready"])

    def test_a_cluster_dies_with_the_test_that_owns_it(self, own_folder: Path) -> None:
        script = f"""
            import pathlib, time
            from tests.cluster.cluster import Cluster
            Cluster.start(pathlib.Path({str(own_folder)!r}), owned=True)
            print("up", flush=True)
            time.sleep(1000)
            """
        command = [sys.executable, "-c", textwrap.dedent(script)]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as owner:
            assert owner.stdout is not None
            assert owner.stdout.readline() == "up\n"
            owner.kill()
        wait_for(lambda: not commands_with(str(own_folder)))

    def test_two_clusters_have_different_addresses(
        self, cluster: Cluster, kubectl: Kubectl, own_folder: Path
    ) -> None:
        own = Cluster.start(own_folder, nodes=[NodeSpec("node-1")], owned=True)
        addresses = set()
        for target in (kubectl, Kubectl(own, "default")):
            apply(target, pod("here", container("exec sleep 1000")))
            target("wait", "--for=condition=Ready", "pod/here", PATIENCE)
            addresses.add(target.get("pod", "here")["status"]["podIP"])
        assert len(addresses) == 2


def _cluster_command(name: str, folder: Path) -> None:
    command = [sys.executable, "-m", "tests.cluster", name, "--folder", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
