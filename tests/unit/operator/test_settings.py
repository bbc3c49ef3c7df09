"""The operator's settings: what they make of workers and verification Jobs, and what is wrong with them."""

from typing import Any

import pytest
from imagefleet_operator.plan.workers import NodeCache, WorkerDefaults
from imagefleet_operator.settings import parse_settings

ENV = {
    "IMAGEFLEET_WORKER_IMAGE": "worker:1",
    "IMAGEFLEET_CALLER_KEY_FILE": "/caller.pem",
    "POD_NAMESPACE": "imagefleet-system",
}


def test_without_a_word_on_it_files_are_kept_as_long_as_the_pod() -> None:
    assert parse_settings([], ENV).workers == WorkerDefaults("worker:1")
    assert WorkerDefaults("worker:1").cache == NodeCache({"emptyDir": {}})


@pytest.mark.parametrize(
    ("env", "want"),
    [
        (
            {"CACHE_TYPE": "hostPath", "CACHE_PATH": "/var/cache/imagefleet", "CACHE_BYTES": "5"},
            NodeCache({"hostPath": {"path": "/var/cache/imagefleet", "type": "Directory"}}, 5),
        ),
        (
            {"CACHE_TYPE": "pvc", "CACHE_CLAIM": "models"},
            NodeCache({"persistentVolumeClaim": {"claimName": "models"}}, group=True),
        ),
    ],
    ids=["a folder of the node", "a claim"],
)
def test_the_node_cache(env: dict[str, str], want: NodeCache) -> None:
    given = {f"IMAGEFLEET_{name}": value for name, value in env.items()}
    assert parse_settings([], ENV | given).workers.cache == want


def test_what_else_reaches_workers() -> None:
    arguments = ["--worker-env", '[{"name": "HF_ENDPOINT", "value": "http://hub"}]', "--source-limit-bytes=7"]
    found = parse_settings([*arguments, "--verify-service-account=fetcher"], ENV).workers
    assert found.env == ({"name": "HF_ENDPOINT", "value": "http://hub"},)
    assert (found.source_limit_bytes, found.verify_account) == (7, "fetcher")


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        (["--cache-type=hostPath"], "--cache-type hostPath needs --cache-path, an absolute path"),
        (["--cache-type=hostPath", "--cache-path=cache"], "needs --cache-path, an absolute path"),
        (["--cache-type=pvc"], "--cache-type pvc needs --cache-claim"),
        (["--cache-type=nfs"], "--cache-type is 'nfs', not emptyDir, hostPath, pvc"),
        (["--cache-bytes=-1"], "--cache-bytes must not be negative"),
        (["--source-limit-bytes=0"], "--source-limit-bytes be positive"),
        (["--worker-env=HF_ENDPOINT=x"], "--worker-env is no JSON"),
        (["--worker-env={}"], "--worker-env must be a JSON list such as"),
        (['--worker-env=[{"value": "1"}]'], "--worker-env must be a JSON list such as"),
        (["--queue-workers=0"], "--queue-workers and --resync-seconds must be positive"),
        (["--log-level=loud"], "--log-level is 'loud'"),
        (["--renew-seconds=99"], "renew"),
    ],
)
def test_a_wrong_setting_ends_the_process_with_its_name(
    arguments: list[str], want: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_settings(arguments, ENV)
    assert ended.value.code == 2
    assert want in capsys.readouterr().err


def test_help_says_what_each_setting_is_without_one(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        parse_settings(["--help"], {})
    told = " ".join(capsys.readouterr().out.split())
    assert "$IMAGEFLEET_WORKER_IMAGE; required" in told
    assert "$IMAGEFLEET_CACHE_PATH; none" in told
    assert "$IMAGEFLEET_CACHE_TYPE; emptyDir" in told
