"""Quantities are read as Kubernetes reads them, and written so that nothing is understated."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagefleet_operator.api import bytes_quantity, quantity_bytes, quantity_value


@pytest.mark.parametrize(
    ("quantity", "want"),
    [
        ("7Gi", 7516192768),
        ("7.3Gi", 7838315316),
        ("1Ki", 1024),
        ("1k", 1000),
        ("1e3", 1000),
        ("2E", 2 * 10**18),
        ("1.5M", 1500000),
        ("100m", 1),
        (".5Ki", 512),
        ("0", 0),
        (1073741824, 1073741824),
    ],
)
def test_a_quantity_of_bytes_is_rounded_up(quantity: int | str, want: int) -> None:
    assert quantity_bytes(quantity) == want


@pytest.mark.parametrize(
    ("quantity", "want"), [("500m", "0.5"), ("4", "4"), ("1u", "0.000001"), ("2n", "2E-9")]
)
def test_a_quantity_may_be_a_fraction(quantity: str, want: str) -> None:
    assert quantity_value(quantity) == Decimal(want)


@pytest.mark.parametrize(
    "text", ["", "Gi", "7 GB", "7GB", "-1", "seven", "1.2.3", "7gi", "NaN", "1e", "0x10"]
)
def test_other_text_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity: write"):
        quantity_value(text)


@pytest.mark.parametrize(
    ("count", "want"),
    [(0, "0"), (1023, "1023"), (1024, "1Ki"), (7516192768, "7Gi"), (7838315315, "7.3Gi"), (1025, "1.1Ki")],
)
def test_bytes_are_written_short(count: int, want: str) -> None:
    assert bytes_quantity(count) == want


def test_a_negative_count_of_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="never negative"):
        bytes_quantity(-1)


@given(st.integers(min_value=0, max_value=2**60))
def test_what_is_written_is_never_less_than_what_was_measured_nor_a_tenth_more(count: int) -> None:
    read = quantity_bytes(bytes_quantity(count))
    assert count <= read <= count * 1.1 + 1
