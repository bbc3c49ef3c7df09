"""A pool's ``worker.podTemplate`` over the operator's own pod template."""

from collections.abc import Mapping
from typing import Any

from imagefleet_operator.plan.types import Json


def merge_pod_template(ours: Json, theirs: Json, labels: Mapping[str, str]) -> Json:
    """``theirs`` over ``ours``; our labels stay, as the selectors of Deployment, Service and budget depend on
    them."""
    merged: Json = _merged(ours, theirs)
    merged["metadata"]["labels"] = {**merged["metadata"].get("labels", {}), **labels}
    return merged


def _merged(ours: Any, theirs: Any) -> Any:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        both = {key: _merged(ours[key], theirs[key]) for key in ours.keys() & theirs.keys()}
        return {**ours, **{key: value for key, value in theirs.items() if value is not None}, **both}
    if isinstance(ours, list) and isinstance(theirs, list):
        key = _list_key(ours, theirs)
        return theirs if key is None else _merged_items(ours, theirs, key)
    return ours if theirs is None else theirs


def _list_key(ours: list[Any], theirs: list[Any]) -> str | None:
    """What tells the items of a list apart, None where it is replaced as a whole.

    ``mountPath`` goes before ``name``: volumeMounts have both, and one volume may be mounted twice.
    """
    items = [*ours, *theirs]
    if not all(isinstance(item, dict) for item in items):
        return None
    if all("mountPath" in item for item in items):
        return "mountPath"
    return "name" if all("name" in item for item in items) else None


def _merged_items(ours: list[Json], theirs: list[Json], key: str) -> list[Json]:
    """Our items in their order, each with theirs of the same key over it, then the items that only they have.

    An environment variable replaces ours as a whole: ``value`` beside ``valueFrom`` would be refused.
    """
    overrides = {item[key]: item for item in theirs}
    known = [_over(item, overrides[item[key]]) if item[key] in overrides else item for item in ours]
    names = {item[key] for item in ours}
    return known + [item for item in theirs if item[key] not in names]


def _over(ours: Json, theirs: Json) -> Json:
    sources = {"value", "valueFrom"}
    if sources & ours.keys() and sources & theirs.keys():
        return theirs
    merged: Json = _merged(ours, theirs)
    return merged
