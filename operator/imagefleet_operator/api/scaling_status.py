"""The status of a pool's scaling: what was decided, from what, and what was learned for it."""

from collections.abc import Mapping

from pydantic import Field

from imagefleet_operator.api.common import ApiModel, Int32, Time

MAX_DECISIONS = 5
MAX_LEARNED = 8_192


class ScalingDecision(ApiModel):
    """One change of the number of workers that there should be."""

    time: Time = Field(description="When it was made.")
    from_: Int32 = Field(alias="from", description="Workers asked for before.", ge=0)
    to: Int32 = Field(description="Workers asked for since.", ge=0)
    reason: str = Field(description="Why, in one word for programs.", max_length=64)
    message: str = Field(description="Why, in a sentence for people.", max_length=1024)
    inputs: Mapping[str, float] = Field(
        default_factory=dict, description="The figures that it follows from, by name."
    )


class Learned(ApiModel):
    """What an operator that starts anew goes on from."""

    version: Int32 = Field(description="Of the form of what follows; another one is not read.", ge=1)
    time: Time = Field(description="When it was written, at most twice an hour.")
    text: str = Field(description="The form is the operator's own.", max_length=MAX_LEARNED)


class ScalingStatus(ApiModel):
    """How many workers there should be, are, and why."""

    mode: str = Field(description="Internal, External, or Fixed where a pool without scaling has a warmPool.")
    desired_replicas: Int32 = Field(description="Workers that should take requests.", ge=0)
    active: Int32 = Field(default=0, description="Workers that take requests, or start in order to.", ge=0)
    warm: Int32 = Field(
        default=0, description="Workers that wait without requests, or start in order to.", ge=0
    )
    leaving: Int32 = Field(default=0, description="Workers that finish what they have, and go then.", ge=0)
    ready: Int32 = Field(default=0, description="Active workers that are ready.", ge=0)
    start_seconds: float | None = Field(
        default=None, description="Seconds from a pod's creation until it is ready, as learned.", ge=0
    )
    load_seconds: float | None = Field(
        default=None, description="Seconds from then until a model is loaded, as learned.", ge=0
    )
    expected_at: Time | None = Field(
        default=None,
        description="When the next worker that starts should draw; absent where none starts.",
    )
    last_scale_time: Time | None = Field(default=None, description="When the number last changed.")
    decisions: tuple[ScalingDecision, ...] = Field(
        default=(),
        description="The last 5 decisions that changed it, the latest at the end.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    learned: Learned | None = Field(default=None, description="What was learned of the demand.")


class WarmStatus(ApiModel):
    """The warm workers."""

    replicas: Int32 = Field(default=0, description="Warm workers that there should be now.", ge=0)
    ready: Int32 = Field(default=0, description="Those that are started and hold what they should.", ge=0)
