"""The operator's process: probes and metrics at once, then wait for the Lease, then lead until it is lost."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine

from imagefleet_operator import metrics
from imagefleet_operator.client import (
    ApiError,
    ApiUnreachableError,
    CredentialsError,
    KubeClient,
    load_configuration,
)
from imagefleet_operator.election import Election
from imagefleet_operator.leader import CALLS_AT_ONCE, Leader, WatchError
from imagefleet_operator.server import Probes, start_server
from imagefleet_operator.settings import Settings, parse_settings
from imagefleet_operator.sync import MissingKindError
from imagefleet_operator.workers import CallerKeyError, load_key

logger = logging.getLogger(__name__)

EXPECTED = (
    CredentialsError,
    CallerKeyError,
    MissingKindError,
    WatchError,
    ApiError,
    ApiUnreachableError,
    OSError,
)
"""What a message explains; anything else is a bug and ends with its traceback."""
SPARE_CONNECTIONS = 8
"""Beside those of the queues: the Lease must never wait for a free one."""
LOST_LEASE = 3
"""Exit status after the Lease was lost: another replica may lead already, so nothing more may be written."""


def main() -> None:
    """Run the operator; exits 0 when told to stop, else with a message that says why."""
    settings = parse_settings()
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    if settings.log_level != "debug":
        logging.getLogger("kopf").setLevel(logging.WARNING)
    try:
        asyncio.run(run(settings))
    except EXPECTED as error:
        sys.exit(f"imagefleet-operator: {error}")


async def run(settings: Settings) -> None:
    """The whole life of the process."""
    probes, stop = Probes(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    configuration = await load_configuration()
    load_key(settings.caller_key_file)  # a replica that could never lead says so now
    client = KubeClient(configuration, connections=settings.queue_workers + CALLS_AT_ONCE + SPARE_CONNECTIONS)
    server = await start_server(settings.host, settings.port, probes)
    try:
        election = Election(client, settings.lease)
        metrics.LEADER.set(0)
        if await _unless_stopped(election.acquire(), stop):
            metrics.LEADER.set(1)
            leader = Leader(settings, configuration, client)
            probes.problems, probes.refresh = leader.problems, leader.refresh_metrics
            holding = asyncio.create_task(_hold(election), name="lease")
            try:
                await leader.run(stop)
            finally:
                holding.cancel()
                await election.release()
    finally:
        await client.close()
        await server.cleanup()


async def _unless_stopped(work: Coroutine[None, None, None], stop: asyncio.Event) -> bool:
    """Whether ``work`` ended before ``stop`` was set."""
    task = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if task.done():
        task.result()
        return True
    task.cancel()
    return False


async def _hold(election: Election) -> None:
    """End the process at once when the Lease is lost: no clean-up that might write after another has
    begun. An error in holding it is as good as its loss, since nobody renews it then."""
    try:
        await election.hold()
    except Exception:
        logger.exception("the lease is no longer renewed")
    logger.critical("the lease was lost, ending")
    logging.shutdown()
    os._exit(LOST_LEASE)
