import asyncio

import pytest
from imagefleet_runtime.gateway.hold import Hold, HoldFullError

from tests.unit.gateway.builders import until


async def test_waits_end_when_a_change_serves_them_in_the_order_they_came() -> None:
    hold, order, open_gate = Hold(10), list[int](), False

    async def request(number: int) -> None:
        assert await hold.wait(lambda: open_gate, 60)
        order.append(number)

    requests = [asyncio.create_task(request(number)) for number in range(5)]
    await until(lambda: len(hold) == 5)
    hold.changed()
    assert len(hold) == 5
    open_gate = True
    hold.changed()
    await asyncio.gather(*requests)
    assert order == [0, 1, 2, 3, 4]
    assert len(hold) == 0


async def test_only_those_that_are_served_wake() -> None:
    hold = Hold(10)
    mine = asyncio.create_task(hold.wait(lambda: True, 60))
    other = asyncio.create_task(hold.wait(lambda: False, 60))
    await until(lambda: len(hold) == 2)
    hold.changed()
    assert await mine
    assert len(hold) == 1
    other.cancel()
    await until(lambda: len(hold) == 0)


async def test_a_wait_has_an_end() -> None:
    hold = Hold(10)
    assert await hold.wait(lambda: False, 0.01) is False
    assert len(hold) == 0


async def test_the_line_is_bounded() -> None:
    with pytest.raises(HoldFullError):
        await Hold(0).wait(lambda: True, 60)
