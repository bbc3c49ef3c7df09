"""How many workers hold a model, and how far the others are: ``status.copies`` and the ``Cached`` condition."""

from collections.abc import Sequence

from imagefleet_operator.api.quantity import bytes_quantity
from imagefleet_operator.plan.conditions import Verdict
from imagefleet_operator.plan.rounding import progress
from imagefleet_operator.plan.types import Copy, Json, ModelReport


def copies_status(copies: Sequence[Copy]) -> Json:
    """Workers that hold it now; that hold it, load it or should; that failed to; and that fetch it, with how far
    they are."""
    states = [c.report.state if c.report else "" for c in copies]
    wanted = [
        c.wanted_pinned or state in ("Loading", "Resident") for c, state in zip(copies, states, strict=True)
    ]
    fetching = [c.report for c in copies if c.report is not None and c.report.fetching]
    counts = {"available": states.count("Resident"), "total": sum(wanted), "failed": states.count("Failed")}
    return counts | ({"fetching": len(fetching), **_fetched(fetching)} if fetching else {})


def _fetched(fetching: Sequence[ModelReport]) -> Json:
    """Of those whose size is known; nothing where it is of none."""
    known = [(r.fetched_bytes or 0, r.fetch_total_bytes) for r in fetching if r.fetch_total_bytes is not None]
    total = sum(most for _, most in known)
    if not total:
        return {}
    return {"bytesFetched": progress(sum(done for done, _ in known), total), "bytesTotal": total}


def cached(copies: Sequence[Copy], counts: Json) -> Verdict:
    """The ``Cached`` condition; ``counts`` are ``copies_status`` of ``copies``."""
    available, total = counts["available"], counts["total"]
    if "fetching" in counts:
        return Verdict(False, "Fetching", _fetching(counts))
    failed = next((c.report for c in copies if c.report is not None and c.report.state == "Failed"), None)
    if failed is not None:
        return Verdict(False, "ModelLoadFailed", f"{failed.reason}: {failed.message}")
    if not total:
        return Verdict(False, "NoCopies", "No worker holds it or should.")
    message = f"{available} of {total} workers hold it."
    return Verdict(True, "Cached", message) if available == total else Verdict(False, "ModelLoading", message)


def _fetching(counts: Json) -> str:
    """Worked example: ``1 of 3 workers fetch the files: 42 % of 6.5Gi.``"""
    message = f"{counts['fetching']} of {counts['total']} workers fetch the files"
    if "bytesTotal" not in counts:
        return f"{message}."
    percent = 100 * counts["bytesFetched"] // counts["bytesTotal"]
    return f"{message}: {percent} % of {bytes_quantity(counts['bytesTotal'])}."
