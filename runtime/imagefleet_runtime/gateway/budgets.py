"""What budgets mean for a request: where it may go, and in which words it is refused."""

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from .errors import MAX_RETRY_AFTER_SECONDS, ApiError
from .quota import DEGRADED, EXHAUSTED, BudgetView, Header
from .snapshot import Route, Share

INSUFFICIENT_QUOTA = "insufficient_quota"
"""OpenAI's type and code."""
# openai's clients send a 429 again unless they are told not to.
_NO_RETRY = (b"x-should-retry", b"false")
_CHOICE = (b"x-imagefleet-degrade", b"refuse")


def within(route: Route, headers: Sequence[Header], now: float) -> Route:
    """The route without the pools whose budget is used up for this caller. `now`: seconds since the epoch.

    Raises ApiError (429 `insufficient_quota`) where that leaves none.
    """
    if all(shares[0].budget is None for shares in route.pools):
        return route
    left = tuple(shares for shares in route.pools if _state(shares[0], headers, now) != EXHAUSTED)
    if route.pools and not left:
        raise _exhausted(route, headers, now)
    return route if len(left) == len(route.pools) else replace(route, pools=left)


def degraded(route: Route, headers: Sequence[Header], now: float) -> bool:
    """Whether one of its pools can pay for reduced pictures alone: which one draws must not decide how large they
    are."""
    return any(_state(shares[0], headers, now) == DEGRADED for shares in route.pools)


def _state(share: Share, headers: Sequence[Header], now: float) -> str:
    budget = share.budget
    return "" if budget is None else budget.standing(budget.tenant(headers), now)


def _exhausted(route: Route, headers: Sequence[Header], now: float) -> ApiError:
    """In the words of the pool that has most to say: the one that resets first."""
    stated = [(s[0], s[0].budget) for s in route.pools if s[0].budget is not None]
    share, budget = min(stated, key=lambda one: one[1].resets_at or math.inf)
    where, tenant = f"InferencePool '{share.namespace}/{share.pool}'", budget.tenant(headers)
    if budget.state == EXHAUSTED:
        limit = f" of {budget.limit_gpu_hours:g} GPU-hours a day" if budget.limit_gpu_hours else ""
        what = f"The budget{limit} of {where} is used up"
    else:
        what = f"Tenant '{tenant}' has used up its budget for today in {where}"
    return _refusal(f"{what}.{_until(budget)} Whoever runs the pool can raise the limit.", budget, now)


def refuses(headers: Sequence[Header]) -> bool:
    """Whether the caller would rather have no picture than a reduced one."""
    return any(name == _CHOICE[0] and value.strip().lower() == _CHOICE[1] for name, value in headers)


def only_reduced(route: Route, now: float) -> ApiError:
    """The refusal of a request that is not to be reduced."""
    stated = [(s[0], s[0].budget) for s in route.pools if s[0].budget is not None]
    share, budget = stated[0]
    where = f"InferencePool '{share.namespace}/{share.pool}'"
    message = (
        f"The budget of {where} is nearly used up: it draws only reduced pictures.{_until(budget)} Ask for less, or "
        "leave out x-imagefleet-degrade."
    )
    return _refusal(message, budget, now)


def _until(budget: BudgetView) -> str:
    if budget.resets_at is None:
        return ""
    return f" It begins anew at {datetime.fromtimestamp(budget.resets_at, UTC):%Y-%m-%dT%H:%M:%SZ}."


def _refusal(message: str, budget: BudgetView, now: float) -> ApiError:
    left = MAX_RETRY_AFTER_SECONDS if budget.resets_at is None else math.ceil(budget.resets_at - now)
    return ApiError(
        429,
        INSUFFICIENT_QUOTA,
        message,
        kind=INSUFFICIENT_QUOTA,
        retry_after=max(1, min(MAX_RETRY_AFTER_SECONDS, left)),
        headers=(_NO_RETRY,),
    )
