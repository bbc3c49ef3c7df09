"""Kubernetes quantities, as far as the downward API needs them."""

from __future__ import annotations

import math
import re
from fractions import Fraction

_SUFFIXES = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "Ki": Fraction(2**10),
    "Mi": Fraction(2**20),
    "Gi": Fraction(2**30),
    "Ti": Fraction(2**40),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
    "Pi": Fraction(2**50),
    "Ei": Fraction(2**60),
}


def parse(text: str) -> Fraction:
    match = re.fullmatch(r"([0-9.]+(?:[eE][0-9]+)?)([a-zA-Z]*)", text)
    if match is None or match[2] not in _SUFFIXES:
        raise ValueError(f"not a quantity: {text!r}")
    return Fraction(match[1]) * _SUFFIXES[match[2]]


def in_units(text: str, divisor: str) -> str:
    """Whole divisors, rounded up. 1500m CPU with divisor 1 is 2; 1Gi with divisor 1Mi is 1024."""
    unit = parse(divisor) or Fraction(1)
    return str(math.ceil(parse(text) / unit))
