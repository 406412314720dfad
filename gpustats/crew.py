"""The workers of a Dask cluster: how many there are, and that they are of one kind."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from gpustats.engines import resolve
from gpustats.environment import n_cores, version_of

if TYPE_CHECKING:
    from distributed import Client, Worker

logger = logging.getLogger("gpustats")

INSTALL_LINE = "pip install 'gpustats[distributed]'"
NOT_ALONE = (
    "a checkpoint is that of one process; give a checkpoint or a Dask client, or compute ranges of "
    "shuffles apart and merge them"
)
AHEAD = 2
"""Ranges that a worker has: one that it computes, and the next."""
SECONDS_OF_CREW = 5.0
"""How often workers are counted: some may join while the test runs."""


class Kind(NamedTuple):
    """What must be equal on all machines."""

    version: str
    engine: str
    """What the last bits of a result depend on."""


def kind_of_machine(device: str) -> Kind:
    """Say what kind of machine this process runs on."""
    return Kind(version_of("gpustats"), resolve(device).fingerprint())


class Crew:
    """Know the workers: how many there are, and that they are of one kind.

    Parameters
    ----------
    client
        Of the cluster. If it has no workers, they are waited for.
    device
        What each of them is to compute on.
    allow_mixed
        Whether machines may differ in what last bits depend on.

    Raises
    ------
    ValueError
        If they differ and must not, or a worker cannot take part.
    """

    def __init__(self, client: Client, device: str, *, allow_mixed: bool) -> None:
        self.client = client
        self.device = device
        self.allow_mixed = allow_mixed
        self.own = kind_of_machine(device)
        self.engines = {self.own.engine}
        self._count()
        if self.size == 0:
            logger.info("waiting for a worker to join the Dask cluster")
            client.wait_for_workers(1)
            self._count()
        answers: Mapping[str, Any] = client.run(kind_of_machine, device, on_error="return")
        for address, kind in answers.items():
            if isinstance(kind, BaseException):
                raise ValueError(f"worker {address} cannot take part: {kind}") from kind
            self.check(kind, f"worker {address}")

    @property
    def engine(self) -> str:
        """What the last bits of the result depend on."""
        return " and ".join(sorted(self.engines))

    @property
    def room(self) -> int:
        """How many ranges may be on their way."""
        if time.monotonic() - self.counted > SECONDS_OF_CREW:
            self._count()
        return AHEAD * max(1, self.size)

    def check(self, kind: Kind, whose: str = "a worker that joined later") -> None:
        """Refuse a machine of another kind, unless that is allowed."""
        if kind.version != self.own.version:
            raise ValueError(
                f"all machines need one version of gpustats; this process has {self.own.version}, "
                f"{whose} has {kind.version}"
            )
        if kind.engine != self.own.engine and not self.allow_mixed:
            raise ValueError(
                f"machines of one kind give the same bits; this process has {self.own.engine}, "
                f"{whose} has {kind.engine}; start all on one kind, or allow mixed ones if "
                "agreement to 1e-5 will do (allow_mixed=True, --allow-mixed)"
            )
        self.engines.add(kind.engine)

    def _count(self) -> None:
        """Count the workers."""
        self.size = len(self.client.nthreads())
        self.counted = time.monotonic()


def crew_of(client: Any, device: str, *, allow_mixed: bool, alone: bool) -> Crew | None:
    """Return the workers of a client; None if there is no client.

    Parameters
    ----------
    client
        Of a cluster, or None.
    device, allow_mixed
        As of `Crew`.
    alone
        Whether something was asked for that only one process can do: a checkpoint.

    Raises
    ------
    TypeError
        If it is no client.
    ValueError
        If there are a client and a checkpoint, or machines that differ and must not.
    """
    if client is None:
        return None
    if not hasattr(client, "scatter") or client.asynchronous:
        raise TypeError(
            "client must be a distributed.Client that is not asynchronous, "
            f"got {type(client).__name__}"
        )
    if alone:
        raise ValueError(NOT_ALONE)
    return Crew(client, device, allow_mixed=allow_mixed)


@contextmanager
def cluster(address: str | None, n_local: int | None) -> Iterator[Client | None]:
    """Join a cluster, or start one on this machine for a while; None if neither is asked for.

    Parameters
    ----------
    address
        Of the scheduler, such as ``tcp://node7:8786``.
    n_local
        How many workers to start here; they share the cores.

    Raises
    ------
    ImportError
        If Dask is not installed.
    ValueError
        If there are more workers to start than cores, or none.
    OSError
        If no scheduler answers.
    """
    if address is None and n_local is None:
        yield None
        return
    if n_local is not None and not 1 <= n_local <= n_cores():
        raise ValueError(
            f"workers on this machine share its {n_cores()} cores: 1 to as many, got {n_local}"
        )
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ImportError(f"Dask is not installed: {INSTALL_LINE}") from error
    if n_local is None:
        with Client(address) as client:
            yield client
        return
    threads = n_cores() // n_local
    # a free port for the dashboard: a second cluster on a machine would warn
    options = {"threads_per_worker": threads, "dashboard_address": ":0", "preload": [__name__]}
    with LocalCluster(n_workers=n_local, **options) as here, Client(here) as client:
        yield client


def dask_setup(worker: Worker) -> None:
    """Leave Ctrl-C to the client: Dask calls this in workers that `cluster` starts."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
