"""Numbers that go into a status: few digits, and no change for noise, so that measuring writes nothing at
rest."""

from math import floor, log10


def significant(value: float, digits: int) -> float:
    """``value`` with that many significant digits.

    Worked example: ``significant(0.011437, 2)`` is 0.011.
    """
    if value == 0:
        return 0.0
    return round(value, digits - 1 - floor(log10(abs(value))))


def settled(previous: float | None, measured: float | None, *, within: float, digits: int) -> float | None:
    """The number to publish: the published one while the measured is within a fraction of it, else the
    measured, rounded.

    Formula: keep ``previous`` while ``|measured - previous| <= within * |previous|``. A measurement that is
    absent is no opinion: the published number stays.

    Worked examples: ``settled(0.011, 0.0117, within=0.1, digits=2)`` is 0.011 (6 % off);
    ``settled(0.011, 0.0134, within=0.1, digits=2)`` is 0.013; ``settled(None, 0.0134, ...)`` is 0.013.
    """
    if measured is None:
        return previous
    if previous is not None and abs(measured - previous) <= within * abs(previous):
        return previous
    return significant(measured, digits)


def stepped(previous: float | None, measured: float | None, *, step: float) -> float | None:
    """As ``settled``, for numbers with a natural scale: keep the published one within a step, else the
    nearest step.

    Worked examples, step 0.1: ``stepped(0.6, 0.68)`` is 0.6; ``stepped(0.6, 0.74)`` is 0.7.
    """
    if measured is None:
        return previous
    if previous is not None and abs(measured - previous) <= step:
        return previous
    return round(round(measured / step) * step, 6)


def progress(done: int, total: int) -> int:
    """How much of ``total`` is done in whole percents of it, never more than is done or than all.

    Worked examples: ``progress(1234, 10_000)`` is 1200; ``progress(11_000, 10_000)`` is 10000.
    """
    percent = min(100, 100 * done // total)
    return -(-total * percent // 100)  # rounded up, so that the same percent is worked out of it again
