"""How an entry of a pool moves from one model to another, and what its callers are promised."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from imagefleet_operator.api.checks import DECIMAL, Check, Checked, decimal, pattern
from imagefleet_operator.api.common import ApiModel, Int32

MAX_STEPS = 32
_DECIMAL_LENGTH = Field(max_length=16)

RATE_CHECK = pattern(
    "0([.][0-9]{1,6})?|1([.]0{1,6})?",
    'a rate is a decimal number from 0 to 1, as text: write for example "0.99"',
)
SUCCESS_RATE_CHECK = Check(
    cel="!self.startsWith('1')",
    holds=lambda rate: not rate.startswith("1"),
    message="successRate is under 1, or a single failure would be more than there may ever be: write for "
    'example "0.999"',
)
TOLERANCE_CHECK = Check(
    cel="!self.matches('^0([.]0+)?$')",
    holds=lambda rate: rate.strip("0") not in ("", "."),
    message="a tolerance of 0 is never shown to be kept, however many requests are counted: write the least "
    'difference that matters, for example "0.02"',
)
RATIO_CHECKS = decimal(
    'maxRatio is a decimal number over 1, as text: write for example "1.25" for a quarter slower', over=1
)
BURN_RATE_CHECKS = decimal(
    "a burn rate is a decimal number over 0, as text, 1 being the rate that uses the error budget up exactly: "
    'write for example "2"',
    over=0,
)
SECONDS_CHECKS = decimal(
    'p95 is a decimal number of seconds over 0, as text: write for example "1.5"', over=0
)

Rate = Annotated[str, Checked(RATE_CHECK), _DECIMAL_LENGTH]
Tolerance = Annotated[str, Checked(RATE_CHECK, TOLERANCE_CHECK), _DECIMAL_LENGTH]
Ratio = Annotated[str, Checked(*RATIO_CHECKS), _DECIMAL_LENGTH]
BurnRate = Annotated[str, Checked(*BURN_RATE_CHECKS), _DECIMAL_LENGTH]
Seconds = Annotated[str, Checked(*SECONDS_CHECKS), _DECIMAL_LENGTH]


class PauseStep(ApiModel):
    """Nothing changes for a while."""

    seconds: Int32 | None = Field(
        default=None,
        description="How long. Absent: until someone promotes, with the annotation imagefleet.dev/rollout.",
        ge=1,
    )


class AnalysisStep(ApiModel):
    """The canary is compared with the stable model until it is found no worse."""


class MirrorStep(ApiModel):
    """The canary draws copies of requests, for nobody."""

    percent: Int32 = Field(description="The share of the requests that is copied; 0 ends it.", ge=0, le=100)


class RolloutStep(ApiModel):
    """One step of a rollout."""

    set_weight: Int32 | None = Field(
        default=None,
        description="The canary gets this share of the requests, in percent. It may be less than before.",
        ge=0,
        le=100,
    )
    pause: PauseStep | None = Field(
        default=None, description="Wait. {} waits until someone promotes, {seconds: 60} a minute."
    )
    analysis: AnalysisStep | None = Field(
        default=None,
        description="Go on once the canary is found no worse than the stable model: {}. From the first step "
        "that gives it requests on, a canary that is found worse is aborted at any time, with or without this.",
    )
    mirror: MirrorStep | None = Field(
        default=None,
        description="The canary draws copies of requests after callers were answered; the pictures are thrown "
        "away, the figures kept.",
    )


def _one_thing(step: RolloutStep) -> bool:
    things = (step.set_weight, step.pause, step.analysis, step.mirror)
    return sum(thing is not None for thing in things) == 1


def _shown_before_judged(steps: Sequence[RolloutStep]) -> bool:
    """Whether an analysis, if there is one, comes after a step that gives the canary requests."""
    for step in steps:
        if step.set_weight or (step.mirror is not None and step.mirror.percent):
            return True
        if step.analysis is not None:
            return False
    return True


STEP_CHECK = Check(
    cel="[has(self.setWeight), has(self.pause), has(self.analysis), has(self.mirror)]"
    ".filter(given, given).size() == 1",
    holds=_one_thing,
    message="a step is one of setWeight, pause, analysis and mirror: write for example {setWeight: 5}, and "
    "make several steps of several things",
)
_STEP_KINDS = (
    "self.map(step, has(step.analysis) ? 'judged' : "
    "(has(step.setWeight) && step.setWeight > 0 || has(step.mirror) && step.mirror.percent > 0) ? 'shown' : '')"
)
STEPS_CHECK = Check(
    cel=f"[{_STEP_KINDS}].all(kinds, !('judged' in kinds) || "
    "('shown' in kinds && kinds.indexOf('shown') < kinds.indexOf('judged')))",
    holds=_shown_before_judged,
    message="an analysis has nothing to compare before the canary gets requests: put a setWeight or mirror over "
    "0 before it",
)


class MaxIncrease(ApiModel):
    """A rate that may not rise."""

    max_increase: Tolerance | None = Field(
        default=None,
        description="By how much the canary's rate may be over the stable model's; \"0.05\" where absent, which is "
        "5 points of 100.",
    )

    @property
    def allowed(self) -> str | None:
        """The bound as it is written; None where it is absent."""
        return self.max_increase


class MaxDecrease(ApiModel):
    """A rate or score that may not fall."""

    max_decrease: Tolerance | None = Field(
        default=None,
        description="By how much the canary's may be under the stable model's; \"0.05\" where absent, which is 5 "
        "points of 100.",
    )

    @property
    def allowed(self) -> str | None:
        """The bound as it is written; None where it is absent."""
        return self.max_decrease


class MaxRatio(ApiModel):
    """A time that may not grow."""

    max_ratio: Ratio | None = Field(
        default=None,
        description="How many times the stable model's seconds for the same work the canary may take; "
        '"1.25" where absent.',
    )

    @property
    def allowed(self) -> str | None:
        """The bound as it is written; None where it is absent."""
        return self.max_ratio


class Analysis(ApiModel):
    """What of the canary is compared with the stable model, over the same time. Of the five figures, those named
    are judged; where none is named, all are."""

    error_rate: MaxIncrease | None = Field(
        default=None, description="Requests that a worker failed, of all. {} judges it with the default."
    )
    out_of_memory_rate: MaxIncrease | None = Field(
        default=None,
        description="Requests that failed for want of memory, of all. {} judges it with the default.",
    )
    safety_pass_rate: MaxDecrease | None = Field(
        default=None,
        description="Pictures that passed the safety check, of those checked; no opinion where "
        "worker.checks.safety is absent. {} judges it with the default.",
    )
    latency: MaxRatio | None = Field(
        default=None,
        description="Seconds on the worker for each megapixel and step, so that another mix of sizes does not "
        "mislead. {} judges it with the default.",
    )
    quality_score: MaxDecrease | None = Field(
        default=None,
        description="Mean score of the pictures, 0 to 1; no opinion where worker.checks.quality is absent. {} "
        "judges it with the default.",
    )
    min_requests: Int32 = Field(
        default=50,
        description="Requests that each of the two must have answered before the canary can pass; 50 where "
        "absent.",
        ge=1,
        le=1_000_000,
    )
    max_wait_seconds: Int32 = Field(
        default=600,
        description="How long an analysis step waits for figures that decide; 600 where absent.",
        ge=1,
    )
    on_inconclusive: Literal["Pause", "Promote", "Abort"] = Field(
        default="Pause",
        description="What follows where they do not decide in time. Pause, where absent: wait for a person. "
        "Promote: go on. Abort: back to the stable model.",
    )


_PAUSE_BURN_RATE, _ABORT_BURN_RATE = "2", "10"


class Rollout(ApiModel):
    """How the entry moves to another model when its `model` changes."""

    steps: Annotated[
        tuple[Annotated[RolloutStep, Checked(STEP_CHECK)], ...],
        Field(max_length=MAX_STEPS, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
        Checked(STEPS_CHECK),
    ] = Field(
        default=(),
        description="What is done in order until the canary gets all requests. None: it gets them all as soon as "
        "it is ready.",
    )
    analysis: Analysis = Field(
        default_factory=Analysis,
        description="What is compared. Absent: all five figures, with the default tolerances.",
    )
    progress_deadline_seconds: Int32 = Field(
        default=600,
        description="A canary that takes longer to be placed and loaded is aborted; 600 where absent. Pauses do "
        "not count.",
        ge=1,
    )
    pause_burn_rate: BurnRate = Field(
        default=_PAUSE_BURN_RATE,
        description="The rollout waits while callers of the entry use up the error budget of slo so many times "
        'as fast as it allows, over 5 minutes and over an hour; "2" where absent.',
    )
    abort_burn_rate: BurnRate = Field(
        default=_ABORT_BURN_RATE,
        description='At this rate it is aborted; "10" where absent. Over pauseBurnRate.',
    )


def _burn_rate(field: str, absent: str) -> str:
    return f"has(self.{field}) ? self.{field} : '{absent}'"


BURN_RATES_CHECK = Check(
    # 0 stands for a text that is no number, of which another rule tells.
    cel=f"[[{_burn_rate('abortBurnRate', _ABORT_BURN_RATE)}, {_burn_rate('pauseBurnRate', _PAUSE_BURN_RATE)}]"
    f".map(rate, rate.matches('^{DECIMAL}$') ? double(rate) : 0.0)]"
    ".all(rates, 0.0 in rates || rates[0] > rates[1])",
    holds=lambda rollout: float(rollout.abort_burn_rate) > float(rollout.pause_burn_rate),
    message="abortBurnRate must be over pauseBurnRate: raise abortBurnRate (10 where absent) or lower "
    "pauseBurnRate (2 where absent)",
    path=".abortBurnRate",
)


class LatencySlo(ApiModel):
    """How fast requests are answered."""

    p95: Seconds = Field(
        description='Seconds within which 95 of 100 requests are answered, as decimal text, for example "1.5".'
    )


class Slo(ApiModel):
    """What callers of the entry are promised. What is absent is not promised."""

    latency_seconds: LatencySlo | None = Field(default=None, description="How fast requests are answered.")
    success_rate: Annotated[Rate, Checked(SUCCESS_RATE_CHECK)] | None = Field(
        default=None,
        description='Requests that are answered without an error of ours, of all, for example "0.999". Under 1: '
        "the rest is the error budget.",
    )
    safety_pass_rate: Rate | None = Field(
        default=None,
        description='Pictures that pass the safety check, of those checked, for example "0.99". A model that '
        "stays under it makes SafetyHealthy False. Needs worker.checks.safety.",
    )
    on_unsafe: Literal["Report", "Suspend"] = Field(
        default="Report",
        description="What else follows then. Report, where absent: nothing. Suspend: the model draws nothing more "
        "until a person lifts that with the annotation imagefleet.dev/rollout.",
    )


SLO_CHECK = Check(
    cel="!has(self.onUnsafe) || self.onUnsafe != 'Suspend' || has(self.safetyPassRate)",
    holds=lambda slo: slo.on_unsafe != "Suspend" or slo.safety_pass_rate is not None,
    message='onUnsafe: Suspend needs a floor to act on: set slo.safetyPassRate, for example to "0.99"',
    path=".onUnsafe",
)
