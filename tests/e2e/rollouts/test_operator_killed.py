"""The operator is killed after each of its writes to the pool's status: rollouts end as if it had lived."""

from __future__ import annotations

import base64
import os
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.cluster import wait_for
from tests.cluster.outside import OutsideOperator, certificate_authority, write_kubeconfig
from tests.e2e.rollouts.pools import LOOK_SECONDS, NAME, Json, Pool
from tests.e2e.write_proxy import WriteProxy

ACCOUNT = "imagefleet-operator"
HALF: Json = {"setWeight": 50}


@pytest.fixture
def mortal(pictures: Pool, tmp_path: Path) -> Iterator[MortalOperator]:
    """The fleet has no operator but this one."""
    pictures.fleet.scale("operator", 0)
    with MortalOperator.beside(pictures, tmp_path) as operator:
        yield operator
    pictures.fleet.scale("operator", 1)


class MortalOperator:
    """An operator that does not survive any write to the status of a pool."""

    def __init__(self, operator: OutsideOperator, proxy: WriteProxy) -> None:
        self._operator, self._proxy = operator, proxy

    @classmethod
    @contextmanager
    def beside(cls, pool: Pool, folder: Path) -> Iterator[MortalOperator]:
        """With the account, the key and the settings of the fleet's own."""
        fleet, cluster = pool.fleet, pool.fleet.cluster
        key = folder / "caller.pem"
        secret = cluster.get("secret", "imagefleet-caller-key", namespace=fleet.namespace)["data"]
        key.write_bytes(base64.b64decode(secret["caller.pem"]))
        deployment = cluster.get("deployment", ACCOUNT, namespace=fleet.namespace)
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        settings = {one["name"]: one["value"] for one in container["env"] if "value" in one}
        token = cluster.kubectl("create", "token", ACCOUNT, namespace=fleet.namespace).strip()
        tls = ssl.create_default_context(cadata=certificate_authority(cluster))
        status = f"/{pool.kubectl.namespace}/inferencepools/{NAME}/status"
        with WriteProxy(cluster.server, tls, only=status) as proxy:
            kubeconfig = write_kubeconfig(cluster, folder / "kubeconfig", token, proxy.address)
            log = folder / "operator.log"
            yield cls(
                OutsideOperator(cluster, kubeconfig, key, log, namespace=fleet.namespace, settings=settings),
                proxy,
            )

    def live_until(self, done: Callable[[], bool]) -> int:
        """Start it again and again until `done`; how often it was killed."""
        deaths = 0
        while not done():
            written = len(self._proxy.writes)
            with self._operator:
                self._proxy.on_stop = self._kill
                self._proxy.stop_after = max(written, len(self._proxy.writes)) + 1
                wait_for(lambda: self._operator.dead or done(), every=LOOK_SECONDS)
                deaths += self._operator.dead
        return deaths

    def _kill(self) -> None:
        os.kill(self._operator.pid, signal.SIGKILL)


@pytest.mark.timeout(600)
def test_a_good_version_is_promoted_all_the_same(pictures: Pool, mortal: MortalOperator) -> None:
    before = pictures.history()
    stable = pictures.entry()["stable"]
    good = "shapes-1" if stable == "shapes-2" else "shapes-2"
    with pictures.callers() as load:
        pictures.roll(
            good,
            {"setWeight": 20},
            {"pause": {"seconds": 1}},
            HALF,
            {"analysis": {}},
            analysis={"errorRate": {"maxIncrease": "0.2"}, "minRequests": 20},
        )
        deaths = mortal.live_until(lambda: pictures.entry()["stable"] == good)
        load.wait_for_more(5)
    assert not load.failed
    assert deaths >= 3, "when it begins, for each weight, and at its end at least"
    found = [one for one in pictures.history() if one not in before]
    assert [(one["from"], one["to"], one["verdict"]) for one in found] == [(stable, good, "Promoted")]


@pytest.mark.timeout(600)
def test_a_bad_version_is_aborted_once_and_can_be_taken_back_meanwhile(
    pictures: Pool, mortal: MortalOperator
) -> None:
    before = pictures.history()
    stable = pictures.entry()["stable"]
    with pictures.callers() as load:
        pictures.roll("shapes-broken", HALF, {"pause": {}}, analysis={"errorRate": {}})
        mortal.live_until(lambda: pictures.rollout().get("phase") == "Aborted")
        aborted = time.time()
        load.wait_for_more(10, sent_since=aborted + 2)
        assert set(load.served_by(since=aborted + 2)) == {stable}, "gateways need no operator to go back"
        pictures.serve(stable)
        mortal.live_until(lambda: pictures.rollout() == {})
        load.wait_for_more(5)
    assert {model for _, _, model in load.failed} == {"shapes-broken"}
    assert pictures.traffic() == {stable: 100}
    assert [one["verdict"] for one in pictures.history() if one not in before] == ["Aborted"]
