"""Checks of a value, written once and made twice: by the API server, in CEL, and when a resource is read."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from imagefleet_operator.api.common import RuleReason, rule, rules

DECIMAL = "[0-9]{1,6}([.][0-9]{1,6})?"
"""A decimal number that is not negative. Kubernetes' API has no fractions but in text."""


@dataclass(frozen=True)
class Check:
    """What must hold of a value, and how to mend one of which it does not."""

    cel: str
    """The same as `holds`, of `self`."""
    holds: Callable[[Any], bool]
    message: str
    path: str | None = None
    """The field of the value that a refusal of the API server names; None: the value itself."""
    reason: RuleReason | None = None


def pattern(expression: str, message: str, *, prefix: str = "") -> Check:
    """All of a text that begins with `prefix` matches `expression`, in the syntax that RE2 and `re` share."""
    compiled = re.compile(expression, re.ASCII)
    matches = f"self.matches('^({expression})$')"
    return Check(
        cel=f"!self.startsWith('{prefix}') || {matches}" if prefix else matches,
        holds=lambda text: not text.startswith(prefix) or compiled.fullmatch(text) is not None,
        message=message,
    )


def decimal(message: str, *, over: float) -> tuple[Check, Check]:
    """A text is a decimal number, and it is larger than `over`. One message says both."""
    written = pattern(DECIMAL, message)
    larger = Check(
        cel=f"!{written.cel} || double(self) > {over:.1f}",
        holds=lambda text: not written.holds(text) or float(text) > over,
        message=message,
    )
    return written, larger


class Checked:
    """Marks a field with its checks: `Annotated[str, Checked(...)]`."""

    def __init__(self, *checks: Check) -> None:
        self._checks = checks

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        made = (rule(c.cel, c.message, path=c.path, reason=c.reason) for c in self._checks)
        bare = handler(schema)
        return bare | rules(*bare.get("x-kubernetes-validations", ()), *made)

    def _check(self, value: Any) -> Any:
        for check in self._checks:
            if not check.holds(value):
                raise ValueError(check.message)
        return value
