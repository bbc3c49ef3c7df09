"""The operator's process: what ends it."""

import pytest
from imagefleet_operator import main
from imagefleet_operator.election import Election


class Ended(BaseException):
    """Stands for the end of the process."""


class Broken(Election):
    """An election that breaks off."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    async def hold(self) -> None:
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize("error", [None, ValueError("a Lease that cannot be read")], ids=["lost", "broken"])
async def test_who_no_longer_renews_ends_at_once(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses: list[int] = []

    def end(status: int) -> None:
        statuses.append(status)
        raise Ended

    monkeypatch.setattr("imagefleet_operator.main.os._exit", end)
    monkeypatch.setattr("imagefleet_operator.main.logging.shutdown", lambda: None)
    with pytest.raises(Ended):
        await main._hold(Broken(error))
    assert statuses == [main.LOST_LEASE]
