"""The status of a pool's rollouts, experiments and suspensions. What was not measured is absent."""

from pydantic import Field

from imagefleet_operator.api.common import ApiModel, Int32, Int64, Time, list_map


class Figures(ApiModel):
    """What gateways counted of one model."""

    model: str = Field(description="The ImageModel.")
    percent: Int32 | None = Field(default=None, description="Its share of the requests.", ge=0, le=100)
    requests: Int64 = Field(default=0, description="Requests that ended.", ge=0)
    error_rate: float | None = Field(
        default=None, description="Those that a worker failed, of all, 0 to 1.", ge=0
    )
    out_of_memory_rate: float | None = Field(
        default=None, description="Those that failed for want of memory, of all, 0 to 1.", ge=0
    )
    safety_pass_rate: float | None = Field(
        default=None,
        description="Pictures that passed the safety check, of those checked, 0 to 1.",
        ge=0,
    )
    quality_score: float | None = Field(default=None, description="Mean score of the pictures, 0 to 1.", ge=0)
    seconds_per_megapixel_step: float | None = Field(
        default=None,
        description="Seconds on a worker for one denoising step of one megapixel, guided ones counted twice: "
        "the geometric mean over the requests.",
        ge=0,
    )


class Finding(ApiModel):
    """What was found of one figure."""

    metric: str = Field(
        description="errorRate, outOfMemoryRate, safetyPassRate, latency (seconds per megapixel and step) or "
        "qualityScore."
    )
    verdict: str = Field(description="Passed, Failed or Inconclusive.")
    stable: float | None = Field(default=None, description="The stable model's.")
    canary: float | None = Field(default=None, description="The canary's.")
    message: str = Field(default="", description="Why, in a sentence for people.")


class AnalysisStatus(ApiModel):
    """How canary and stable compare."""

    verdict: str = Field(
        description="Passed: no worse in every figure. Failed: worse in at least one. Inconclusive: not enough was "
        "counted."
    )
    metrics: tuple[Finding, ...] = Field(
        default=(), description="What was found of each figure.", json_schema_extra=list_map("metric")
    )


class RolloutStatus(ApiModel):
    """How far the entry is on its way to another model; or why it went back."""

    phase: str = Field(
        description="Preparing: the canary is placed and loaded. Paused: it waits. Analyzing: figures are compared. "
        "Promoting: the canary gets all that the stable model had. Aborted: all requests are with the stable "
        "model again."
    )
    step: Int32 | None = Field(
        default=None, description="The step under way, or at which it was aborted, from 1 on.", ge=0
    )
    steps: Int32 | None = Field(default=None, description="How many steps there are.", ge=0)
    weight: Int32 | None = Field(
        default=None, description="The canary's share of the requests, in percent.", ge=0, le=100
    )
    all_at_once: bool | None = Field(
        default=None,
        description="Whether no worker has room for both: the canary gets all requests at the first weight over 0.",
    )
    started_at: Time | None = Field(default=None, description="When it began.")
    phase_started_at: Time | None = Field(default=None, description="When the phase began.")
    step_started_at: Time | None = Field(default=None, description="When the step began.")
    by: str | None = Field(
        default=None, description="The field manager that named the model, as far as it is known."
    )
    reason: str | None = Field(default=None, description="Why it stands so, in one CamelCase word.")
    message: str | None = Field(default=None, description="Why, in a sentence for people.")
    aborted_model: str | None = Field(
        default=None,
        description="The ImageModel that was aborted. It is not tried again until spec.models[].model changes or "
        "somebody says retry.",
    )
    analysis: AnalysisStatus | None = Field(default=None, description="How canary and stable compare.")


class ExperimentStatus(ApiModel):
    """How an experiment stands."""

    name: str = Field(description="The name of spec.models[].experiments[].")
    phase: str = Field(
        description="Waiting: for room or for its models. Running: they get their shares. Ended: its time is over."
    )
    message: str | None = Field(default=None, description="Why, in a sentence for people.")
    started_at: Time | None = Field(default=None, description="When it began.")
    ends_at: Time | None = Field(default=None, description="When it ends or ended.")
    arms: tuple[Figures, ...] = Field(
        default=(), description="Its models' figures.", json_schema_extra=list_map("model")
    )


class BudgetStatus(ApiModel):
    """How fast callers of the entry use up the error budget of slo: 1 uses it up exactly."""

    short_burn_rate: float | None = Field(default=None, description="Over the last 5 minutes.", ge=0)
    long_burn_rate: float | None = Field(default=None, description="Over the last hour.", ge=0)


class RolloutSummary(ApiModel):
    """The entry that rolls out, or the first one where none does, for kubectl get."""

    stable: str | None = Field(default=None, description="Its stable model.")
    canary: str | None = Field(default=None, description="Its canary.")
    weight: str | None = Field(default=None, description="The canary's share, for example 5%.")
    step: str | None = Field(default=None, description="The step under way of how many, for example 2/5.")
    phase: str | None = Field(default=None, description="Its phase.")


class HistoryEntry(ApiModel):
    """A rollout that ended."""

    name: str = Field(description="The name of spec.models[].")
    from_: str = Field(alias="from", description="The ImageModel that served before.")
    to: str = Field(description="The ImageModel that was to serve.")
    by: str | None = Field(
        default=None, description="The field manager that named the model, as far as it is known."
    )
    verdict: str = Field(
        description="Promoted: it serves. Aborted: it was found wanting, or somebody said so. Reverted: the spec "
        "named the old model again. Superseded: the spec named a third one."
    )
    reason: str | None = Field(default=None, description="Why, in one CamelCase word.")
    message: str | None = Field(default=None, description="Why, in a sentence for people.")
    started_at: Time | None = Field(default=None, description="When it began.")
    ended_at: Time | None = Field(default=None, description="When it ended.")
    analysis: str | None = Field(
        default=None,
        description="What the analysis had found by then: Passed, Failed or Inconclusive. Absent where nothing was "
        "compared.",
    )
    figures: tuple[Figures, ...] = Field(
        default=(),
        description="What was counted of the two models in the last window.",
        json_schema_extra=list_map("model"),
    )


class Suspension(ApiModel):
    """A model that draws nothing under a name, and what it drew before, for those who investigate."""

    name: str = Field(description="The name of spec.models[].")
    model: str = Field(description="The ImageModel.")
    reason: str = Field(
        description="Requested: by spec.suspend or spec.models[].suspend. Unsafe: too few of its pictures passed "
        "the safety check."
    )
    message: str | None = Field(default=None, description="Why, in a sentence for people.")
    since: Time = Field(description="Since when.")
    until: Time | None = Field(default=None, description="Until when; absent while it holds.")
    served_since: Time | None = Field(
        default=None, description="When it first answered, as far as gateways remember."
    )
    last_served: Time | None = Field(default=None, description="When it last answered.")
    requests: Int64 | None = Field(
        default=None, description="Requests that it answered, as far as gateways remember.", ge=0
    )
    pictures: Int64 | None = Field(
        default=None, description="Pictures that callers got of it, as far as gateways remember.", ge=0
    )


class CommandStatus(ApiModel):
    """What came of the annotation imagefleet.dev/rollout."""

    value: str = Field(description="The annotation's value.")
    outcome: str = Field(description="Applied or Refused.")
    message: str | None = Field(default=None, description="What was done, or why nothing was.")
