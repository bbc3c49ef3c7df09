from pathlib import Path

import pytest
from imagefleet_runtime.worker.settings import (
    CacheSettings,
    CheckSettings,
    SettingsError,
    available_cpus,
    read_cache_settings,
    read_settings,
)

REQUIRED = {
    "IMAGEFLEET_NAMESPACE": "team-a",
    "IMAGEFLEET_POOL": "thumbnails",
    "IMAGEFLEET_POD": "thumbnails-workers-abc",
    "IMAGEFLEET_CALLER_PUBLIC_KEY": "PEM",
}


def test_the_rest_has_defaults() -> None:
    found = read_settings(REQUIRED)
    assert (found.host, found.port, found.max_request_seconds, found.queue_limit) == (
        "0.0.0.0",
        8000,
        300.0,
        32,
    )
    assert found.audience == "team-a/thumbnails"
    assert found.torch_threads == available_cpus()
    assert found.cache == CacheSettings(Path("/cache"), 0, 200 * 1024**3)


def test_the_node_cache_has_settings_of_its_own() -> None:
    given = {
        "IMAGEFLEET_CACHE_DIR": "/a",
        "IMAGEFLEET_CACHE_BYTES": "5",
        "IMAGEFLEET_SOURCE_LIMIT_BYTES": "6",
    }
    assert read_cache_settings(given) == CacheSettings(Path("/a"), 5, 6)
    with pytest.raises(SettingsError, match="IMAGEFLEET_CACHE_BYTES is '5Gi'"):
        read_cache_settings({"IMAGEFLEET_CACHE_BYTES": "5Gi"})


def test_settings_are_taken_from_the_environment() -> None:
    given = {"IMAGEFLEET_PORT": "9", "IMAGEFLEET_QUEUE_LIMIT": "0", "IMAGEFLEET_TORCH_THREADS": "3"}
    found = read_settings(REQUIRED | given)
    assert (found.port, found.queue_limit, found.torch_threads) == (9, 0, 3)


def test_checks_of_pictures_are_named_by_the_environment_or_there_are_none() -> None:
    assert read_settings(REQUIRED).checks == CheckSettings("", "")
    given = {"IMAGEFLEET_SAFETY_CHECK": " shapes ", "IMAGEFLEET_QUALITY_SCORE": "mine"}
    assert read_settings(REQUIRED | given).checks == CheckSettings("shapes", "mine")


def test_requests_are_drawn_to_their_end_unless_the_environment_says_otherwise() -> None:
    assert read_settings(REQUIRED).interrupt == "finish"
    assert read_settings(REQUIRED | {"IMAGEFLEET_INTERRUPT": "checkpoint"}).interrupt == "checkpoint"
    with pytest.raises(
        SettingsError, match="IMAGEFLEET_INTERRUPT is 'stop'; it must be one of finish, checkpoint"
    ):
        read_settings(REQUIRED | {"IMAGEFLEET_INTERRUPT": "stop"})


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("value", [None, "", "  "])
def test_what_is_missing_is_named(name: str, value: str | None) -> None:
    env = {key: text for key, text in REQUIRED.items() if key != name}
    if value is not None:
        env[name] = value
    with pytest.raises(SettingsError, match=name):
        read_settings(env)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IMAGEFLEET_PORT", "http"),
        ("IMAGEFLEET_PORT", "-1"),
        ("IMAGEFLEET_QUEUE_LIMIT", "1.5"),
        ("IMAGEFLEET_MAX_REQUEST_SECONDS", "0"),
        ("IMAGEFLEET_TORCH_THREADS", "0"),
        ("IMAGEFLEET_TORCH_THREADS", "²"),
    ],
)
def test_a_bad_number_is_named_with_its_value(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is '{value}'; it must be a whole number"):
        read_settings(REQUIRED | {name: value})


@pytest.mark.parametrize(
    ("files", "want"),
    [
        ({}, 4),
        ({"cpu.max": "max 100000\n"}, 4),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "900000 100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
    ids=str,
)
def test_threads_follow_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], want: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_cpus(tmp_path) == want
