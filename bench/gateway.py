"""What the gateway costs: requests per second per core and added latency, beside LiteLLM and HAProxy in the
same run.

Every server proxies to the same fake worker, which answers at once. Runs are interleaved, and throughput
counts the server's own CPU time (from /proc), so that neighbours on the machine disturb all of them alike.
Prints JSON lines.
"""

import statistics
from collections import defaultdict

from bench._gateway_load import Latency, latencies, percentiles, saturate
from bench._gateway_processes import System, systems
from bench.report import figure, progress

ROUNDS = 3
WARM_UP_SECONDS = 2
SATURATE_SECONDS = 3
# Requests per second, a fraction of what the slowest of them takes.
OFFERED_RATE = 30
OFFERED_SECONDS = 10


def measure(servers: dict[str, System]) -> tuple[dict[str, float], dict[str, Latency]]:
    """Median requests per CPU second, and latency at the offered rate over all rounds, by system."""
    rates: dict[str, list[float]] = defaultdict(list)
    samples: dict[str, list[float]] = defaultdict(list)
    for name, server in servers.items():
        progress(f"warming up {name}")
        saturate(server, WARM_UP_SECONDS)
    for number in range(ROUNDS):
        for name, server in servers.items():
            rates[name].append(saturate(server, SATURATE_SECONDS))
            samples[name].extend(latencies(server, OFFERED_RATE, OFFERED_SECONDS))
            progress(f"round {number + 1}: {name}: {rates[name][-1]:.0f} requests/s per core")
    return (
        {name: statistics.median(values) for name, values in rates.items()},
        {name: percentiles(values) for name, values in samples.items()},
    )


def report(servers: dict[str, System], rates: dict[str, float], latency: dict[str, Latency]) -> None:
    unit = "requests/s/core"
    figure("throughput", rates["imagefleet"], unit)
    for name in ("litellm", "haproxy"):
        if name in rates:
            figure(f"throughput_vs_{name}", rates["imagefleet"], unit, rates[name])
    direct = latency.pop("direct")
    added = {n: Latency(value.p50 - direct.p50, value.p99 - direct.p99) for n, value in latency.items()}
    figure("added_p50", added["imagefleet"].p50, "s", added["litellm"].p50)
    figure("added_p99", added["imagefleet"].p99, "s", added["litellm"].p99)
    if "haproxy" in added:
        figure("added_p50_vs_haproxy", added["imagefleet"].p50, "s", added["haproxy"].p50)
        figure("added_p99_vs_haproxy", added["imagefleet"].p99, "s", added["haproxy"].p99)
    mebi = 1024 * 1024
    resident = {name: server.resident_bytes() / mebi for name, server in servers.items()}
    figure("resident_memory", resident["imagefleet"], "MiB", resident["litellm"])


def main() -> None:
    with systems() as servers:
        report(servers, *measure(servers))


if __name__ == "__main__":
    main()
