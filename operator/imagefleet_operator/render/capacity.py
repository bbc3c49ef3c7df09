"""Where the pods of a pool with spot may run: those of one Deployment on spot nodes, those of the other off them."""

from collections.abc import Mapping

from imagefleet_operator.plan.spot_types import SpotSpec
from imagefleet_operator.plan.types import Json

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def on_spot_nodes(pod: Json, spot: SpotSpec) -> None:
    """Have a pod's spec, just rendered, ask for a spot node."""
    pod["nodeSelector"] = {**pod.get("nodeSelector", {}), **spot.node_selector}
    known = pod.get("tolerations", [])
    pod["tolerations"] = [*known, *(each for each in spot.tolerations if each not in known)]


def off_spot_nodes(pod: Json, spot: SpotSpec) -> None:
    """Have a pod's spec, just rendered, refuse spot nodes: those that have all of the labels.

    Of a node affinity's terms one must hold, and all of a term: so each term that the pod has is combined with each
    label that may lack.
    """
    affinity = pod.get("affinity") or {}
    node = affinity.get("nodeAffinity") or {}
    terms = (node.get(REQUIRED) or {}).get("nodeSelectorTerms") or [{}]
    lacking = [_lacks(key, value) for key, value in sorted(spot.node_selector.items())]
    both = [_with(term, lack) for term in terms for lack in lacking]
    required = {REQUIRED: {"nodeSelectorTerms": both}}
    pod["affinity"] = {**affinity, "nodeAffinity": {**node, **required}}


def _lacks(key: str, value: str) -> Json:
    return {"key": key, "operator": "NotIn", "values": [value]}


def _with(term: Mapping[str, list[Json]], lack: Json) -> Json:
    return {**term, "matchExpressions": [*term.get("matchExpressions", []), lack]}
