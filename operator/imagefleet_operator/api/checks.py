"""Checks of a text, written once and made twice: by the API server, in CEL, and when a resource is read."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from imagefleet_operator.api.common import rule, rules


@dataclass(frozen=True)
class Check:
    """What must hold of a text, and how to mend one of which it does not."""

    cel: str
    """The same as `holds`, of `self`."""
    holds: Callable[[str], bool]
    message: str


def pattern(expression: str, message: str, *, prefix: str = "") -> Check:
    """All of a text that begins with `prefix` matches `expression`, in the syntax that RE2 and `re` share."""
    compiled = re.compile(expression, re.ASCII)
    matches = f"self.matches('^({expression})$')"
    return Check(
        cel=f"!self.startsWith('{prefix}') || {matches}" if prefix else matches,
        holds=lambda text: not text.startswith(prefix) or compiled.fullmatch(text) is not None,
        message=message,
    )


class Checked:
    """Marks a text field with its checks: `Annotated[str, Checked(...)]`."""

    def __init__(self, *checks: Check) -> None:
        self._checks = checks

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return handler(schema) | rules(*(rule(check.cel, check.message) for check in self._checks))

    def _check(self, text: str) -> str:
        for check in self._checks:
            if not check.holds(text):
                raise ValueError(check.message)
        return text
