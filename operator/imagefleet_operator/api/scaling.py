"""How many workers a pool has: `spec.scaling` and `spec.warmPool`."""

from typing import Annotated, Literal

from pydantic import Field

from imagefleet_operator.api.checks import Check, Checked, pattern
from imagefleet_operator.api.common import ApiModel, Int32, list_map
from imagefleet_operator.api.rollout import RATE_CHECK

MOST_REPLICAS = 10_000
MAX_POLICIES = 8
MAX_WINDOWS = 16

UTILIZATION_CHECK = Check(
    cel="!self.matches('^0([.]0+)?$')",
    holds=lambda rate: rate.strip("0") not in ("", "."),
    message='workers that may never be busy draw nothing: write for example targetUtilization: "0.8"',
)
OBJECTIVE_CHECK = Check(
    cel="!self.startsWith('1')",
    holds=lambda rate: not rate.startswith("1"),
    message='objective is under 1, since no number of workers is enough for any burst: write for example "0.99"',
)
FROM_CHECK = pattern(
    "([01][0-9]|2[0-3]):[0-5][0-9]",
    'from is a time of the day in UTC, from 00:00 to 23:59, as text: write for example "08:00"',
)
TO_CHECK = pattern(
    "([01][0-9]|2[0-3]):[0-5][0-9]|24:00",
    'to is a time of the day in UTC, from 00:00 to 24:00, as text: write for example "18:00"',
)
WINDOW_NAME_CHECK = pattern(
    "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
    "the name of a time in a schedule holds lowercase letters, digits and '-' only, and begins and ends with a letter "
    "or digit: write for example office-hours",
)
WINDOW_CHECK = Check(
    cel="self.from != self.to",
    holds=lambda window: window.start != window.end,
    message='from and to are the same, so the time has no length: write for example from: "00:00", to: "24:00" '
    "for whole days",
    path=".to",
)
BOUNDS_CHECK = Check(
    cel="self.minReplicas <= self.maxReplicas",
    holds=lambda scaling: scaling.min_replicas <= scaling.max_replicas,
    message="minReplicas is more than maxReplicas: lower minReplicas or raise maxReplicas",
    path=".minReplicas",
)

_Rate = Annotated[str, Checked(RATE_CHECK), Field(max_length=16)]


class ScalingPolicy(ApiModel):
    """One limit of a change."""

    type: Literal["Pods", "Percent"] = Field(
        description="What value counts: workers, or percent of those there are."
    )
    value: Int32 = Field(description="The largest change within periodSeconds.", ge=1)
    period_seconds: Int32 = Field(description="Seconds that the limit looks back.", ge=1, le=1800)


class ScalingRules(ApiModel):
    """How fast the number of workers may change in one direction. What is absent does not limit."""

    stabilization_window_seconds: Int32 | None = Field(
        default=None,
        description="A change is made only as far as it was wanted all through the last so many seconds. Absent: 0 up, "
        "60 down.",
        ge=0,
        le=3600,
    )
    select_policy: Literal["Max", "Min", "Disabled"] = Field(
        default="Max",
        description="Of several policies the one that allows the largest change decides (Max), or the one that allows "
        "the smallest (Min). Disabled: no change in this direction.",
    )
    policies: tuple[ScalingPolicy, ...] = Field(
        default=(),
        description="How much may change in which time. None: any change.",
        max_length=MAX_POLICIES,
        json_schema_extra=list_map("type", "periodSeconds"),
    )
    tolerance: _Rate | None = Field(
        default=None,
        description='Changes by no more than this share of the workers there are are not made, as decimal text; "0" '
        "where absent.",
    )


class ScalingBehavior(ApiModel):
    """How fast the number of workers may change, as in autoscaling/v2."""

    scale_up: ScalingRules = Field(default_factory=ScalingRules, description="Towards more workers.")
    scale_down: ScalingRules = Field(default_factory=ScalingRules, description="Towards fewer workers.")


class Scaling(ApiModel):
    """Who decides how many workers there are, and within which bounds."""

    mode: Literal["Internal", "External"] = Field(
        default="Internal",
        description="Internal: the operator decides, from the work that gateways report. External: somebody else "
        "writes spec.replicas through the scale subresource (an HPA, KEDA, kubectl scale); the bounds still hold.",
    )
    min_replicas: Int32 = Field(
        default=1,
        description="Never fewer workers. 0: none where nobody asks for anything; the first request brings them back.",
        ge=0,
        le=MOST_REPLICAS,
    )
    max_replicas: Int32 = Field(
        default=100,
        description="Never more workers, warm ones included, whatever else is said.",
        ge=1,
        le=MOST_REPLICAS,
    )
    target_utilization: Annotated[_Rate, Checked(UTILIZATION_CHECK)] = Field(
        default="0.9",
        description="Internal: the share of their time that workers may be busy in the mean, as decimal text.",
    )
    wait_seconds: Int32 = Field(
        default=30, description="A request that starts this soon after its arrival is in time.", ge=1, le=3600
    )
    objective: Annotated[_Rate, Checked(OBJECTIVE_CHECK)] = Field(
        default="0.99",
        description="Internal: the share of the requests that is to be in time, as decimal text, under 1.",
    )
    zero_after_seconds: Int32 = Field(
        default=600,
        description="Internal, with minReplicas: 0: the pool goes to zero when nothing came for so long.",
        ge=1,
        le=604_800,
    )
    behavior: ScalingBehavior = Field(
        default_factory=ScalingBehavior,
        description="How fast the number of workers may change, as in autoscaling/v2. Absent: up at once, down when "
        "fewer were enough for two minutes.",
    )


class WarmWindow(ApiModel):
    """A time of the day at which another number of warm workers waits, in UTC."""

    name: Annotated[str, Checked(WINDOW_NAME_CHECK)] = Field(
        description="Tells it apart from the others.", min_length=1, max_length=63
    )
    days: tuple[Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"], ...] = Field(
        default=(),
        description="The days on which it begins. None: every day.",
        max_length=7,
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    start: Annotated[str, Checked(FROM_CHECK)] = Field(
        alias="from", description='When it begins, in UTC, for example "08:00".', max_length=5
    )
    end: Annotated[str, Checked(TO_CHECK)] = Field(
        alias="to",
        description='When it ends, in UTC, for example "18:00" or "24:00". Before `from`: on the next day.',
        max_length=5,
    )
    replicas: Int32 = Field(description="Warm workers in that time.", ge=0, le=MOST_REPLICAS)


class WarmPool(ApiModel):
    """Workers beyond those that the demand needs: started, and without requests. One that is needed takes requests at
    once."""

    replicas: Int32 = Field(
        default=1,
        description="Warm workers while no time of the schedule says otherwise.",
        ge=0,
        le=MOST_REPLICAS,
    )
    weights: Literal["Accelerator", "HostMemory"] = Field(
        default="Accelerator",
        description="Where they keep models ready. Accelerator: loaded, so that the first picture waits for nothing. "
        "HostMemory: the files are read into the memory of their node, and a load copies them from there.",
    )
    schedule: tuple[Annotated[WarmWindow, Checked(WINDOW_CHECK)], ...] = Field(
        default=(),
        description="Times with another number; where several hold, the largest.",
        max_length=MAX_WINDOWS,
        json_schema_extra=list_map("name"),
    )
    forecast: bool = Field(
        default=False,
        description="true: also as many as the same time of other days and weeks needed more than now. Needs scaling "
        "with mode: Internal, which learns that.",
    )
