"""Bytes that somebody has tampered with."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy


def corrupted(good: bytes, most: int) -> SearchStrategy[bytes]:
    """`good` with one byte changed, or any bytes, at most `most` of them."""
    places = st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255))
    return st.binary(max_size=most) | places.map(
        lambda change: good[: change[0]] + bytes([change[1]]) + good[change[0] + 1 :]
    )
