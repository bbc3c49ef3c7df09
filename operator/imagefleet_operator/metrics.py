"""The operator's metrics. Names, labels and meanings are listed in ``docs/operator.md``."""

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

LEADER = Gauge("imagefleet_operator_leader", "1 while this replica leads, else 0.")
RECONCILE = Histogram(
    "imagefleet_reconcile_seconds",
    "Time of one pass over one pool or model.",
    ["kind", "outcome"],
    buckets=SECONDS,
)
QUEUE_DEPTH = Gauge(
    "imagefleet_queue_depth", "Keys that are due and wait for a worker of the queue.", ["queue"]
)
QUEUE_AGE = Gauge("imagefleet_queue_oldest_seconds", "How long the oldest due key has waited.", ["queue"])
REQUESTS = Histogram(
    "imagefleet_operator_api_request_seconds",
    "Time of requests to the API server, by what was asked for and the status of the answer.",
    ["verb", "kind", "code"],
    buckets=SECONDS,
)
QUEUE_LAG = Histogram(
    "imagefleet_queue_lag_seconds",
    "How long a key that was due waited until it was worked on.",
    ["queue"],
    buckets=(*SECONDS, 30, 60),
)
WRITES = Counter("imagefleet_operator_writes_total", "Writes to the API server.", ["verb", "kind"])
POLL_FAILURES = Counter(
    "imagefleet_operator_worker_call_failures_total",
    "Calls to workers that failed.",
    ["namespace", "pool", "call"],
)
GATEWAY_FAILURES = Counter(
    "imagefleet_operator_gateway_call_failures_total",
    "Questions to gateways for what they counted that failed.",
)
INTERRUPTIONS = Counter(
    "imagefleet_spot_interruptions_total",
    "Spot workers whose node was about to go.",
    ["namespace", "pool"],
)
PARENTS = Gauge(
    "imagefleet_operator_objects", "Pools and models by condition.", ["kind", "condition", "status"]
)
DEMAND = Gauge(
    "imagefleet_model_demand_gpu_seconds",
    "Work that callers asked for lately; half of it is forgotten every 10 minutes.",
    ["namespace", "pool", "model"],
)
PLACEMENT_CHANGES = Counter(
    "imagefleet_placement_changes_total",
    "Models that took a place on a worker, or gave one up, since we lead.",
    ["namespace", "pool", "reason"],
)
SCALING_DECISIONS = Counter(
    "imagefleet_scaling_decisions_total",
    "Decisions that changed how many workers a pool should have, since we lead.",
    ["namespace", "pool", "reason"],
)
STORED = Gauge("imagefleet_operator_stored_objects", "Objects that the operator remembers.", ["kind"])
SYNCED = Gauge("imagefleet_operator_synced", "1 once every kind has been listed, else 0.")


def forget_pool(namespace: str, pool: str) -> None:
    """Drop the counters of a pool that has gone, or they would grow for ever."""
    for counter in (POLL_FAILURES, PLACEMENT_CHANGES, INTERRUPTIONS, SCALING_DECISIONS):
        counter.remove_by_labels({"namespace": namespace, "pool": pool})


def observe_request(verb: str, kind: str, code: str, seconds: float) -> None:
    """Count one request to the API server, and the write where it is one that was accepted."""
    REQUESTS.labels(verb, kind, code).observe(seconds)
    if verb != "GET" and code.startswith("2"):
        WRITES.labels(verb, kind).inc()
