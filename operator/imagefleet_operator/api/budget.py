"""What a pool and each of its tenants may spend in a day, and what was spent."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from imagefleet_operator.api.checks import Check, Checked, decimal, pattern
from imagefleet_operator.api.common import ApiModel, Int32, Time, list_map
from imagefleet_operator.api.pool_model import HEADER_CHECK, PRIVATE_HEADER_CHECK

MAX_TENANTS = 64
MAX_ALERTS = 8
OTHER = "other"
"""The tenant of all requests whose header names none of spec.budget.tenants."""
_DECIMAL_LENGTH = Field(max_length=16)

HOURS_CHECKS = decimal(
    "gpuHoursPerDay is a decimal number of hours over 0, as text, and worker-hours where the workers have no "
    'accelerator: write for example "100"',
    over=0,
)
COST_CHECKS = decimal(
    "costPerDay is a decimal number over 0, as text, in the currency of costPerGpuHour: write for example "
    '"250.00"',
    over=0,
)
PRICE_CHECKS = decimal(
    "costPerGpuHour is a decimal number over 0, as text, in a currency of your choice: write for example "
    '"2.50"',
    over=0,
)
SHARE_CHECK = pattern(
    "0[.][0-9]*[1-9][0-9]*|1([.]0+)?",
    'a share of the limit is a decimal number over 0 and at most 1, as text: write for example "0.8"',
)
TENANT_NAME_CHECK = pattern(
    "[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?",
    "a tenant's name is what its requests' header says, of letters, digits and . _ -: write for example "
    "studio, or other for all that no tenant is named for",
)
TENANT_LIMIT_CHECK = Check(
    cel="has(self.gpuHoursPerDay) || has(self.costPerDay)",
    holds=lambda tenant: tenant.gpu_hours_per_day is not None or tenant.cost_per_day is not None,
    message='a tenant has a limit: set gpuHoursPerDay, for example "10", or costPerDay',
)
LIMIT_CHECK = Check(
    cel="has(self.gpuHoursPerDay) || has(self.costPerDay) || (has(self.tenants) && self.tenants.size() > 0)",
    holds=lambda budget: (
        budget.gpu_hours_per_day is not None or budget.cost_per_day is not None or bool(budget.tenants)
    ),
    message='a budget has a limit: set gpuHoursPerDay, for example "100", or costPerDay, or tenants with limits',
)
PRICED_CHECK = Check(
    cel="has(self.costPerGpuHour) || (!has(self.costPerDay) && (!has(self.tenants) || "
    "!self.tenants.exists(tenant, has(tenant.costPerDay))))",
    holds=lambda budget: (
        budget.cost_per_gpu_hour is not None
        or (budget.cost_per_day is None and all(t.cost_per_day is None for t in budget.tenants))
    ),
    message='costPerDay needs to know what an hour costs: set costPerGpuHour, for example "2.50", or limit '
    "gpuHoursPerDay instead",
)
TENANT_HEADER_CHECK = Check(
    cel="has(self.tenantHeader) || !has(self.tenants) || self.tenants.size() == 0",
    holds=lambda budget: budget.tenant_header is not None or not budget.tenants,
    message="tenants are told apart by a header that your ingress sets: set tenantHeader, for example x-tenant",
)
BUDGET_CHECKS = (LIMIT_CHECK, PRICED_CHECK, TENANT_HEADER_CHECK)

Hours = Annotated[str, Checked(*HOURS_CHECKS), _DECIMAL_LENGTH]
Cost = Annotated[str, Checked(*COST_CHECKS), _DECIMAL_LENGTH]
Price = Annotated[str, Checked(*PRICE_CHECKS), _DECIMAL_LENGTH]
Share = Annotated[str, Checked(SHARE_CHECK), _DECIMAL_LENGTH]

_TEXTS: dict[str, JsonValue] = {"x-kubernetes-list-type": "set"}


class TenantBudget(ApiModel):
    """What the requests of one tenant may draw in a day."""

    name: Annotated[str, Checked(TENANT_NAME_CHECK)] = Field(
        description="The value of tenantHeader in its requests. `other` stands for all requests that name no "
        "tenant of this list.",
        min_length=1,
        max_length=63,
    )
    gpu_hours_per_day: Hours | None = Field(
        default=None,
        description="The most hours of work (GPU-seconds / 3600) that its requests may draw in a day (UTC).",
    )
    cost_per_day: Cost | None = Field(
        default=None, description="The same as money, at costPerGpuHour for each hour of work."
    )


class Budget(ApiModel):
    """What a pool may spend in a day, which begins at midnight UTC, and what happens on the way there."""

    gpu_hours_per_day: Hours | None = Field(
        default=None,
        description="The most hours that its pods may hold accelerators, counted from a pod's scheduling to its "
        "end: starting and idle too. Of pods without accelerator, hours of workers.",
    )
    cost_per_gpu_hour: Price | None = Field(
        default=None,
        description="What an accelerator's hour costs, in a currency of your choice: makes costs of hours.",
    )
    cost_per_day: Cost | None = Field(
        default=None, description="The most that those hours may cost. With both limits, the lower one holds."
    )
    alert_at: tuple[Share, ...] = Field(
        default=("0.5", "0.8"),
        description="Shares of the limit at which an Event is posted, once a day.",
        max_length=MAX_ALERTS,
        json_schema_extra=_TEXTS,
    )
    on_exhausted: Literal["throttle", "degrade", "stop"] = Field(
        default="stop",
        description="What happens on the way to the limit, from the share reduceAt on. throttle: so few workers "
        "that what is left lasts until the day's end. degrade: pictures as small as the ImageModels' degraded "
        "says. stop: nothing. At the limit there are no workers, whichever it is, until the day ends.",
    )
    reduce_at: Share = Field(
        default="0.8", description="The share of the limit from which throttle and degrade act."
    )
    tenant_header: Annotated[str, Checked(HEADER_CHECK, PRIVATE_HEADER_CHECK)] | None = Field(
        default=None,
        description="The request header that names the caller's tenant. An ingress in front of the gateway must "
        "set it, or remove what callers set.",
        min_length=1,
        max_length=64,
    )
    tenants: tuple[Annotated[TenantBudget, Checked(TENANT_LIMIT_CHECK)], ...] = Field(
        default=(),
        description="Those whose requests are counted by name, each with its limit.",
        max_length=MAX_TENANTS,
        json_schema_extra=list_map("name"),
    )


BudgetState = Literal["Within", "Throttled", "Degraded", "Exhausted"]


class ModelSpend(ApiModel):
    """What one ImageModel took of the day's hours."""

    model: str = Field(description="The ImageModel.")
    busy_gpu_hours: float = Field(description="Hours of work that it drew.", ge=0)
    gpu_hours: float = Field(
        description="Its part of all hours: idle ones are shared out as the work was.", ge=0
    )
    cost: float | None = Field(default=None, description="Of gpuHours; absent without costPerGpuHour.", ge=0)


class TenantSpend(ApiModel):
    """What one tenant took of the day's hours."""

    name: str = Field(description="The tenant.")
    gpu_hours: float = Field(description="Hours of work that its requests drew.", ge=0)
    in_flight_gpu_hours: float | None = Field(
        default=None, description="Estimated hours of its requests that are under way; absent: none.", ge=0
    )
    cost: float | None = Field(default=None, description="Of gpuHours; absent without costPerGpuHour.", ge=0)


class CountedWork(ApiModel):
    """One of a gateway's counters, as it stood."""

    model: str = Field(description="The ImageModel.")
    tenant: str = Field(description="The tenant; empty: copies for nobody.")
    work_seconds: float = Field(description="What the gateway had counted.", ge=0)


class CountedGateway(ApiModel):
    """How far one gateway's counters have been added up."""

    gateway: str = Field(description="Its process, as it calls itself.")
    work: tuple[CountedWork, ...] = Field(
        default=(), description="Its counters.", json_schema_extra=list_map("model", "tenant")
    )


class CountedWorker(ApiModel):
    """One worker's pod, as far as it has been counted."""

    pod: str = Field(description="The pod.")
    state: Literal["Pending", "Holding", "Ended"] = Field(
        description="Pending: it had no accelerator yet; Holding: it is counted up to countedAt; Ended: to its end."
    )


class Spend(ApiModel):
    """What a pool has spent today. An operator that starts goes on from here."""

    period: str = Field(description="The day (UTC), for example 2026-11-28.")
    resets_at: Time = Field(description="When the next one begins.")
    counted_at: Time = Field(description="Up to when everything is counted.")
    gpu_hours: float = Field(description="Hours that its pods held accelerators, idle ones included.", ge=0)
    busy_gpu_hours: float = Field(description="Of these, hours of work drawn. The rest was idle.", ge=0)
    cost: float | None = Field(default=None, description="Of gpuHours; absent without costPerGpuHour.", ge=0)
    models: tuple[ModelSpend, ...] = Field(
        default=(),
        description="By ImageModel, those that drew anything.",
        json_schema_extra=list_map("model"),
    )
    tenants: tuple[TenantSpend, ...] = Field(
        default=(), description="By tenant, those that drew anything.", json_schema_extra=list_map("name")
    )
    workers: tuple[CountedWorker, ...] = Field(
        default=(),
        description="The pods that there were at countedAt. One that is gone by the next look counts up to then.",
        json_schema_extra=list_map("pod"),
    )
    gateways: tuple[CountedGateway, ...] = Field(
        default=(),
        description="How far gateways' counters have been added up.",
        json_schema_extra=list_map("gateway"),
    )


class TenantState(ApiModel):
    """How one tenant stands."""

    name: str = Field(description="The tenant.")
    state: BudgetState = Field(description="What its requests get: Within or Degraded; Exhausted: a refusal.")


class PoolBudgetStatus(ApiModel):
    """How a pool stands in its budget. Gateways obey it."""

    state: BudgetState = Field(
        description="Within; Throttled: fewer workers than asked for; Degraded: smaller pictures; Exhausted: none."
    )
    ceiling: Int32 | None = Field(
        default=None,
        description="The most workers that there may be; absent while it is no fewer than asked for.",
        ge=0,
    )
    limit_gpu_hours: float | None = Field(
        default=None,
        description="The limit in hours, costPerDay included; absent where only tenants have one.",
        ge=0,
    )
    message: str = Field(description="Why, in a sentence.")
    alerts: tuple[str, ...] = Field(
        default=(),
        description="Shares of alertAt that were reached today.",
        json_schema_extra=_TEXTS,
    )
    tenants: tuple[TenantState, ...] = Field(
        default=(), description="How each tenant of the spec stands.", json_schema_extra=list_map("name")
    )
