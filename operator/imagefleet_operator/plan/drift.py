"""Whether a child is to be written.

A child is compared by two marks that survive the API server's defaulting and normalising: the hash of what we
applied, kept in its annotation, and the set of fields that the API server says our last apply owns. Whoever
changes or removes one of our fields takes it out of that set.
"""

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any

from imagefleet_operator.plan.cluster_types import Child
from imagefleet_operator.plan.types import Json


class Action(Enum):
    """What to do about a child."""

    KEEP = "keep"
    APPLY = "apply"
    LOOK = "look"
    """Ask the API server: someone else's may have its name, or someone may have changed it while we were
    away."""
    REFUSE = "refuse"
    """It is someone else's: never touch it."""


def decide(
    known: Child | None, owner: Mapping[str, Any], wanted_hash: str, trusted_fields: int | None
) -> Action:
    """What to do about a child whose owner reference is to be ``owner``.

    What belonged to a parent of the same name that has gone is kept until the garbage collector takes it away:
    its end wakes us.

    ``trusted_fields`` is the hash of the fields that we owned right after our last apply, None where that is
    not known (the first sight after a start): then its fields are looked at.
    """
    if known is None:
        return Action.LOOK
    predecessors = known.owner_name == f"{owner['kind']}/{owner['name']}"
    if known.owner != owner["uid"] and not predecessors:
        return Action.REFUSE
    if known.owner != owner["uid"] or known.deleting:
        return Action.KEEP
    if known.applied_hash != wanted_hash:
        return Action.APPLY
    if trusted_fields is None:
        return Action.LOOK
    return Action.KEEP if known.fields_hash == trusted_fields else Action.APPLY


def covers(fields: Mapping[str, Any], applied: Json) -> bool:
    """Whether managed fields (``fieldsV1``) hold every field of an object that was applied.

    What names the object belongs to nobody and is left aside.
    """
    metadata = {key: value for key, value in applied["metadata"].items() if key not in ("name", "namespace")}
    rest = {key: value for key, value in applied.items() if key not in ("apiVersion", "kind", "metadata")}
    return bool(fields) and owns(fields, {"metadata": metadata, **rest})


def owns(fields: Mapping[str, Any], wanted: Any) -> bool:
    """Whether managed fields (``fieldsV1``) cover every field of what was applied.

    The managed fields themselves say how a list is keyed (``k:{...}`` by fields of the item, ``v:...`` by
    value, neither: as a whole), so no schema is needed. Worked example: ``{"f:spec": {"f:replicas": {}}}``
    covers ``{"spec": {"replicas": 3}}`` and not ``{"spec": {"replicas": 3, "paused": True}}``.
    """
    if not fields:
        return True
    if isinstance(wanted, Mapping):
        return all(f"f:{key}" in fields and owns(fields[f"f:{key}"], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return all(_owns_item(fields, item) for item in wanted)
    return True


def _owns_item(fields: Mapping[str, Any], item: Any) -> bool:
    return any(
        owns(owned, item)
        for key, owned in fields.items()
        if key.startswith(("k:", "v:")) and _names(key, item)
    )


def _names(key: str, item: Any) -> bool:
    """Whether a key of a list in managed fields means this item. Key fields that the item leaves out are
    defaults."""
    value = json.loads(key[2:])
    if key.startswith("v:"):
        return bool(value == item)
    return isinstance(item, Mapping) and all(item.get(name, part) == part for name, part in value.items())
