"""Workers on spot nodes: where these are, how many workers stay off them, and how an interruption is told."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, JsonValue, WithJsonSchema, model_validator

from imagefleet_operator.api.checks import Check, Checked, pattern
from imagefleet_operator.api.common import ApiModel, Int32, rule, rules

Tier = Literal["interactive", "batch"]

INTERRUPTION_TAINTS = (
    "aws-node-termination-handler/spot-itn",
    "cloud.google.com/impending-node-termination",
    "remediator.kubernetes.azure.com/unschedulable",
    "karpenter.sh/disrupted",
    "ToBeDeletedByClusterAutoscaler",
    "node.kubernetes.io/out-of-service",
)
"""What AWS' node termination handler, GKE, AKS, Karpenter, the cluster autoscaler and Kubernetes itself put on a node
that goes."""

TAINT_CHECK = pattern(
    "([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?",
    "an interruption taint is named by its key alone, without value and effect: write for example "
    "karpenter.sh/disrupted",
)
SELECTOR_CHECK = Check(
    cel="self.size() > 0",
    holds=lambda selector: len(selector) > 0,
    message="spot.nodeSelector must tell spot nodes from others: write the label that your cloud gives them, for "
    "example {karpenter.sh/capacity-type: spot}",
    reason="FieldValueRequired",
)
SHARE_CHECK = Check(
    cel="!has(self.onDemandPercent) || !has(self.onDemandReplicas)",
    holds=lambda spot: spot.on_demand_percent is None or spot.on_demand_replicas is None,
    message="onDemandPercent and onDemandReplicas both say how many workers stay on demand: leave one of them out",
    path=".onDemandReplicas",
    reason="FieldValueForbidden",
)
_TOLERATIONS_SCHEMA: dict[str, JsonValue] = {
    "type": "array",
    "maxItems": 16,
    "x-kubernetes-list-type": "atomic",
    "items": {
        "type": "object",
        "required": ["key"],
        "properties": {
            "key": {
                "type": "string",
                "minLength": 1,
                "maxLength": 317,
                "description": "The taint's key. Without one all taints are tolerated, also that of a node that goes.",
            }
        },
        "x-kubernetes-preserve-unknown-fields": True,
    },
}


class Spot(ApiModel):
    """Workers on spot nodes, with a share of them on demand."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(SHARE_CHECK.cel, SHARE_CHECK.message, path=SHARE_CHECK.path, reason=SHARE_CHECK.reason)
        )
    )

    node_selector: Annotated[Mapping[str, str], Checked(SELECTOR_CHECK)] = Field(
        description="The labels of spot nodes. Workers on demand run on nodes that lack one of them.",
        json_schema_extra={"maxProperties": 8},
    )
    tolerations: Annotated[tuple[dict[str, Any], ...], WithJsonSchema(_TOLERATIONS_SCHEMA)] = Field(
        default=(), description="Further tolerations of the workers on spot nodes, for these nodes' taints."
    )
    on_demand_percent: Int32 | None = Field(
        default=None,
        description="The share of the workers that are not on spot nodes, rounded up to whole workers. Absent, as "
        "onDemandReplicas: 0.",
        ge=0,
        le=100,
    )
    on_demand_replicas: Int32 | None = Field(
        default=None,
        description="How many workers are not on spot nodes, instead of a share; all where the pool has fewer.",
        ge=0,
    )
    fallback_seconds: Int32 = Field(
        default=60,
        description="When a spot worker has found no node for so long, one on demand stands in until it has.",
        ge=1,
        le=3600,
    )
    interruption_taints: tuple[Annotated[str, Field(max_length=317), Checked(TAINT_CHECK)], ...] = Field(
        default=INTERRUPTION_TAINTS,
        description="Keys of the taints that say that a node is about to go. What its workers draw is taken up by "
        "others. Absent: those of AWS, GKE, AKS, Karpenter and the cluster autoscaler.",
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )

    @model_validator(mode="after")
    def _one_share(self) -> Self:
        if not SHARE_CHECK.holds(self):
            raise ValueError(SHARE_CHECK.message)
        return self
