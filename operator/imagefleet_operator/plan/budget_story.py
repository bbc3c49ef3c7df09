"""What happened to a pool's budget between two statuses: alerts, once a day each, and changes of its states."""

from collections.abc import Iterator

from imagefleet_operator.plan.conditions import News
from imagefleet_operator.plan.types import Json


def budget_story(old: Json, new: Json) -> Iterator[News]:
    """The news of ``status.budget``. A day that begins is news only where it ends a shortage."""
    after = new.get("budget")
    if after is None:
        return
    before, day = old.get("budget") or {}, str((new.get("spend") or {}).get("period"))
    same_day = day == str((old.get("spend") or {}).get("period"))
    told = set(before.get("alerts") or ()) if same_day else set()
    for share in sorted(set(after.get("alerts") or ()) - told, key=float):
        note = f"{100 * float(share):g} % of today's budget were reached: {after['message']}"
        yield News("BudgetAlert", note, True, f"{day} {share}")
    yield from _change(before.get("state", "Within"), after["state"], after["message"], day)
    yield from _tenants(before, after, day)


def _change(was: str, state: str, message: str, day: str) -> Iterator[News]:
    if was == state:
        return
    if state == "Within":
        yield News("BudgetRestored", f"The budget asks for nothing less any more: {message}", False, day)
    else:
        yield News(f"Budget{state}", message, True, day)


def _tenants(before: Json, after: Json, day: str) -> Iterator[News]:
    was = {tenant["name"]: tenant["state"] for tenant in before.get("tenants") or ()}
    for tenant in after.get("tenants") or ():
        name, state = tenant["name"], tenant["state"]
        if state == was.get(name, "Within"):
            continue
        if state == "Within":
            yield News("TenantRestored", f"Requests of {name} are served in full again.", False, day)
        else:
            what = "are refused" if state == "Exhausted" else "get reduced pictures"
            yield News(f"Tenant{state}", f"Requests of {name} {what}, until the day ends.", True, day)
