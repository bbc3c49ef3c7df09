"""Loopback addresses for pods, never the same for two pods of one machine."""

from __future__ import annotations

import socket

FIRST, LAST = 1, 254


class Addresses:
    """Addresses 127.0.x.1 to 127.0.x.254, where x belongs to this process. When one x is used up it takes
    another.

    A claim on x is an abstract socket of that name: all users of one loopback device see it, whoever they are,
    and it is gone when its process is, however that ended.
    """

    def __init__(self) -> None:
        self._claims: list[socket.socket] = []
        self._free: list[str] = []

    def take(self) -> str:
        if not self._free:
            self._claim()
        return self._free.pop(0)

    def give_back(self, address: str) -> None:
        # At the end: a peer that still connects to an old address should find nobody, not another pod.
        self._free.append(address)

    def _claim(self) -> None:
        for number in range(FIRST, LAST + 1):
            claim = socket.socket(socket.AF_UNIX)
            try:
                claim.bind(f"\0imagefleet-loopback-{number}")
            except OSError:
                claim.close()
                continue
            self._claims.append(claim)
            self._free.extend(f"127.0.{number}.{host}" for host in range(FIRST, LAST + 1))
            return
        raise RuntimeError("no free loopback range: 254 node processes run already")
