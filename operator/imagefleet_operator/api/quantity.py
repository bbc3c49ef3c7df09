"""Kubernetes quantities: the texts such as ``7Gi`` and ``500m`` in which amounts are written."""

import re
from decimal import ROUND_CEILING, Decimal

QUANTITY_PATTERN = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)(([KMGTPE]i)|[numkMGTPE]|([eE][-+]?[0-9]+))?$"

_QUANTITY = re.compile(QUANTITY_PATTERN)
_SUFFIXES = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "E": Decimal(10) ** 18,
    "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20,
    "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40,
    "Pi": Decimal(2) ** 50,
    "Ei": Decimal(2) ** 60,
}
_BINARY = ("Ki", "Mi", "Gi", "Ti")


def quantity_value(quantity: int | str) -> Decimal:
    """The number that a quantity stands for: ``7Gi`` is 7516192768, ``500m`` is 0.5.

    Raises ValueError for text that is no quantity, and for a negative one: nothing in this API is negative.
    """
    text = str(quantity)
    match = _QUANTITY.match(text)
    if match is None:
        raise ValueError(f"{text!r} is no quantity: write a number of bytes or, for example, 7Gi")
    exponent = match.group(5)
    suffix = "" if exponent else (match.group(3) or "")
    number = Decimal(text.removesuffix(suffix) if suffix else text)
    return number * _SUFFIXES.get(suffix, Decimal(1))


def quantity_bytes(quantity: int | str) -> int:
    """The bytes that a quantity stands for, rounded up as Kubernetes does: ``7Gi`` is 7516192768."""
    return int(quantity_value(quantity).to_integral_value(rounding=ROUND_CEILING))


def bytes_quantity(count: int) -> str:
    """A short quantity of at least ``count`` bytes: 7516192768 is ``7Gi``, 7838315315 is ``7.3Gi``.

    One digit after the point, rounded up, so that what is written down is never less than what was measured.
    """
    if count < 0:
        raise ValueError(f"{count} bytes: a count of bytes is never negative")
    for suffix in reversed(_BINARY):
        unit = _SUFFIXES[suffix]
        if count >= unit:
            tenths = (Decimal(count) / unit).quantize(Decimal("0.1"), rounding=ROUND_CEILING)
            return f"{tenths:f}".removesuffix(".0") + suffix
    return str(count)
