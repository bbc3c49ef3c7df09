"""One entry of a pool's models: the name that callers use, and all that may answer under it."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from imagefleet_operator.api.checks import Check, Checked, pattern
from imagefleet_operator.api.common import MAX_NAME_LENGTH, ApiModel, Int32, list_map
from imagefleet_operator.api.image_model import MODEL_NAME
from imagefleet_operator.api.rollout import BURN_RATES_CHECK, SLO_CHECK, Rollout, Slo

# Bounded, since the cost that the API server grants a rule is that of the largest value there could be.
MAX_MODELS = 256
MAX_EXPERIMENTS = 4
MAX_ARMS = 4
MAX_EXPERIMENT_PERCENT = 90

POOL_MODEL_NAME_CHECK = pattern(
    "[A-Za-z0-9]([A-Za-z0-9._:-]*[A-Za-z0-9])?",
    "name may hold letters, digits and . _ : - only, and begins and ends with a letter or digit: write for "
    "example sdxl-turbo (callers write NAMESPACE/NAME where two namespaces use the same name, so no slash)",
)
MODEL_REFERENCE_CHECK = pattern(
    MODEL_NAME,
    "model must be the metadata.name of an ImageModel of this namespace: lowercase letters, digits and '-'",
)
EXPERIMENT_NAME_CHECK = pattern(
    "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
    "an experiment's name holds lowercase letters, digits and '-' only, and begins and ends with a letter or "
    "digit: write for example styles",
)
HEADER_CHECK = pattern(
    "[A-Za-z0-9][A-Za-z0-9_-]*",
    "header must be the name of a request header, of letters, digits, '-' and '_': write for example "
    "x-session-id",
)
PRIVATE_HEADERS = ("authorization", "cookie", "proxy-authorization")
PRIVATE_HEADER_CHECK = Check(
    cel=f"!(self.lowerAscii() in {list(PRIVATE_HEADERS)})",
    holds=lambda header: header.lower() not in PRIVATE_HEADERS,
    message="header must not be one that holds credentials, which change while the caller stays the same: "
    "write for example x-session-id, or userField: true",
)
STICKINESS_CHECK = Check(
    cel="has(self.header) != (has(self.userField) && self.userField)",
    holds=lambda stickiness: (stickiness.header is not None) != bool(stickiness.user_field),
    message="stickiness follows one thing: set either header, for example {header: x-session-id}, or "
    "{userField: true}",
)
FALLBACK_CHECK = Check(
    cel="has(self.model) != (has(self.cached) && self.cached)",
    holds=lambda fallback: (fallback.model is not None) != bool(fallback.cached),
    message="a fallback is one thing: set either model, for example {model: other}, or {cached: true}",
)

ModelReference = Annotated[
    str, Checked(MODEL_REFERENCE_CHECK), Field(min_length=1, max_length=MAX_NAME_LENGTH)
]


class Stickiness(ApiModel):
    """What keeps a caller with the same model while shares do not change."""

    header: Annotated[str, Checked(HEADER_CHECK, PRIVATE_HEADER_CHECK)] | None = Field(
        default=None,
        description="Requests with the same value of this header go to the same model; those without it, as "
        "without stickiness.",
        min_length=1,
        max_length=64,
    )
    user_field: bool | None = Field(
        default=None,
        description="true: requests with the same `user` in their body go to the same model; those without it, "
        "as without stickiness.",
    )


class ExperimentArm(ApiModel):
    """One other model of an experiment, and its share."""

    model: ModelReference = Field(description="The ImageModel of this namespace that answers.")
    percent: Int32 = Field(
        description="Its share of the requests, as long as the experiment lasts.",
        ge=1,
        le=MAX_EXPERIMENT_PERCENT,
    )


class Experiment(ApiModel):
    """Fixed shares of the requests for other models, and figures for each."""

    name: Annotated[str, Checked(EXPERIMENT_NAME_CHECK)] = Field(
        description="Tells it apart from the entry's other experiments.", min_length=1, max_length=63
    )
    arms: Annotated[
        tuple[ExperimentArm, ...],
        Field(max_length=MAX_ARMS, json_schema_extra=list_map("model")),
        Checked(
            Check(
                cel="self.size() > 0",
                holds=lambda arms: bool(arms),
                message="name at least one other model: for example arms: [{model: shapes-2, percent: 20}]",
                reason="FieldValueRequired",
            )
        ),
    ] = Field(
        description="The other models. What they leave of the requests goes where it goes without them."
    )
    seconds: Int32 | None = Field(
        default=None,
        description="How long it lasts, from when its models are ready. Absent: until it is taken out.",
        ge=1,
    )


class Shadow(ApiModel):
    """A model that draws copies of requests, for nobody: its figures are kept, its pictures thrown away."""

    model: ModelReference = Field(description="The ImageModel of this namespace that draws them.")
    percent: Int32 = Field(description="The share of the requests that is copied.", ge=1, le=100)


class Fallback(ApiModel):
    """What callers get while the model that would answer is suspended."""

    model: Annotated[str, Checked(POOL_MODEL_NAME_CHECK)] | None = Field(
        default=None,
        description="Another name of this namespace, which answers instead. Its own fallback is not followed.",
        min_length=1,
        max_length=63,
    )
    cached: bool | None = Field(
        default=None,
        description="true: a request with a seed that was answered before gets that answer again; all others are "
        "refused.",
    )


class PoolModel(ApiModel):
    """A model that the pool serves, under the name by which callers ask for it."""

    name: Annotated[str, Checked(POOL_MODEL_NAME_CHECK)] = Field(
        description='What callers put into a request\'s "model". Letters, digits and . _ : - are allowed. '
        "Unique in the pool.",
        min_length=1,
        max_length=63,
    )
    model: ModelReference = Field(
        description="The ImageModel of this namespace that answers. Name another one to move to a new "
        "version, as rollout says.",
    )
    min_resident: Int32 = Field(
        default=1,
        description="Workers that always hold the model, ready to draw; 1 where absent. 0: loaded when a "
        "request for it comes. More than there are workers: the ModelsPlaced condition says so.",
        ge=0,
    )
    rollout: Annotated[Rollout, Checked(BURN_RATES_CHECK)] = Field(
        default_factory=Rollout,
        description="How it moves to another model when `model` changes. Absent: at once, when that is ready.",
    )
    slo: Annotated[Slo, Checked(SLO_CHECK)] = Field(
        default_factory=Slo, description="What callers are promised. Absent: nothing."
    )
    stickiness: Annotated[Stickiness, Checked(STICKINESS_CHECK)] | None = Field(
        default=None,
        description="What keeps a caller with the same model while shares do not change. Absent: nothing does.",
    )
    experiments: tuple[Experiment, ...] = Field(
        default=(),
        description=f"Fixed shares of the requests for other models; together at most {MAX_EXPERIMENT_PERCENT} "
        "percent.",
        max_length=MAX_EXPERIMENTS,
        json_schema_extra=list_map("name"),
    )
    shadow: Shadow | None = Field(
        default=None, description="A model that draws copies of requests, for nobody. Absent: none."
    )
    suspend: bool = Field(
        default=False,
        description="true: nothing is drawn under this name, and what is under way is ended; false where absent.",
    )
    fallback: Annotated[Fallback, Checked(FALLBACK_CHECK)] | None = Field(
        default=None,
        description="What callers get while the model that would answer is suspended. Absent: an error 503.",
    )


def _arm_models(entry: PoolModel) -> Sequence[str]:
    return [arm.model for experiment in entry.experiments for arm in experiment.arms]


def _arms_differ(entry: PoolModel) -> bool:
    models = [entry.model, *_arm_models(entry)]
    return len(models) == len(set(models))


ENTRY_CHECKS = (
    Check(
        cel="!has(self.experiments) || self.experiments.map(e, e.arms.map(arm, arm.percent).sum()).sum() <= "
        f"{MAX_EXPERIMENT_PERCENT}",
        holds=lambda entry: (
            sum(arm.percent for e in entry.experiments for arm in e.arms) <= MAX_EXPERIMENT_PERCENT
        ),
        message=f"all experiments of an entry together take at most {MAX_EXPERIMENT_PERCENT} percent of its "
        "requests: lower some percents or end an experiment",
        path=".experiments",
    ),
    Check(
        cel="!has(self.experiments) || self.experiments.all(e, e.arms.all(arm, arm.model != self.model && "
        "self.experiments.exists_one(other, other.arms.exists(a, a.model == arm.model))))",
        holds=_arms_differ,
        message="a model is an arm of an entry's experiments once at most, and never its own: name another "
        "ImageModel, or take the arm out",
        path=".experiments",
    ),
    Check(
        cel="!has(self.shadow) || self.shadow.model != self.model",
        holds=lambda entry: entry.shadow is None or entry.shadow.model != entry.model,
        message="shadow.model is the model that answers already: name another ImageModel, or leave shadow out",
        path=".shadow.model",
    ),
    Check(
        cel="!has(self.fallback) || !has(self.fallback.model) || self.fallback.model != self.name",
        holds=lambda entry: entry.fallback is None or entry.fallback.model != entry.name,
        message="fallback.model is the name that it is to stand in for: name another one of this namespace",
        path=".fallback.model",
    ),
)
