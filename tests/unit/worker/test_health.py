from typing import Any

import pytest
from imagefleet_runtime.worker.health import Health, HealthReader, whole

from tests.unit.worker.nvml_fakes import FakeNvml


def read(**state: Any) -> Health:
    library = FakeNvml()
    for name, value in state.items():
        setattr(library, name, value)
    return HealthReader(library, "full").read()


def test_errors_of_the_memory_are_counted_by_kind_and_scope() -> None:
    assert read().ecc_errors == {
        ("corrected", "volatile"): 3,
        ("uncorrected", "volatile"): 0,
        ("uncorrected", "aggregate"): 1,  # the fourth is a sentinel: not known
    }


def test_replaced_rows_are_counted() -> None:
    health = read()
    assert health.remapped_rows == {"corrected": 2, "uncorrected": 1}
    assert (health.repair_pending, health.repair_failed) == (False, False)


@pytest.mark.parametrize(("pending", "want"), [(0, False), (1, True)])
def test_older_devices_retire_pages(pending: int, want: bool) -> None:
    health = read(rows=None, pages_pending=pending)
    assert (health.repair_pending, health.repair_failed, health.remapped_rows) == (want, None, {})


def test_what_holds_the_clocks_down_is_named() -> None:
    throttled = read(reasons=0x4 | 0x40 | 0x1).throttled  # 0x1: idle, which is no throttling
    assert {reason for reason, held in throttled.items() if held} == {"power_cap", "hardware_thermal"}
    assert set(throttled) == {"power_cap", "power_brake", "software_thermal", "hardware_thermal", "hardware"}


def test_xids_are_counted_from_the_start_on() -> None:
    library = FakeNvml()
    reader = HealthReader(library, "full")
    assert reader.read().xids == {}
    library.xids = [31, 31, 94]
    assert reader.read().xids == {31: 2, 94: 1}
    library.xids = [31]
    assert reader.read().xids == {31: 3, 94: 1}
    assert library.registered == [("full", FakeNvml.nvmlEventTypeXidCriticalError)]


def test_a_slice_supports_nothing_of_it() -> None:
    assert HealthReader(FakeNvml(), "slice").read() == Health()


FAULTS: dict[str, tuple[dict[str, Any], str | None]] = {
    "nothing": ({}, None),
    "an application's own Xids": ({"xids": [13, 31, 43, 45, 63, 94]}, None),
    "corrected errors": ({"ecc": {(0, 0): 10**6, (1, 0): 0, (0, 1): 10**6, (1, 1): 0}}, None),
    "replaced rows": ({"rows": (100, 1, 0, 0)}, None),
    "a power cap": ({"reasons": 0x4}, None),
    "an uncorrectable error": ({"xids": [48]}, "Xid 48: a memory error that could not be corrected"),
    "two Xids": (
        {"xids": [79, 48]},
        "Xid 79: it has fallen off the bus; Xid 48: a memory error that could not be corrected",
    ),
    "rows to be replaced": ({"rows": (0, 1, 1, 0)}, "bad memory is to be replaced: reset the device"),
    "pages to be retired": (
        {"rows": None, "pages_pending": 1},
        "bad memory is to be replaced: reset the device",
    ),
    "rows that could not be replaced": ({"rows": (0, 1, 0, 1)}, "bad memory could not be replaced"),
    "a reset that is asked for": ({"recovery_action": 1}, "NVML asks to reset it"),
    "an action that is not for the device": ({"recovery_action": 3}, None),
    "a lost device": ({"lost": True}, "it is lost: NVML does not find it any more"),
}


@pytest.mark.parametrize(("state", "want"), FAULTS.values(), ids=FAULTS.keys())
def test_a_device_is_faulty_where_only_a_reset_helps(state: dict[str, Any], want: str | None) -> None:
    assert read(**state).fault == want


@pytest.mark.parametrize("value", [None, -1, 2**32 - 1, 2**64 - 1, -5])
def test_sentinels_are_no_count(value: int | None) -> None:
    assert whole(value) is None
    assert whole(0) == 0
