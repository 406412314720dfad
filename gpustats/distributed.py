"""Many machines: the shuffles of a test spread over the workers of a Dask cluster.

What a worker computes is a range of shuffles, which is a pure function of the data, the test and
its indices: which worker computes it, in which order, or how often after losses, changes no bit on
machines of one kind. Dask is imported where it is used, not with the package.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gpustats.checkpoints import Nowhere
from gpustats.contrast_maps import ContrastMaps
from gpustats.crew import Crew, Kind, kind_of_machine
from gpustats.engines import SHUFFLE_TILE
from gpustats.environment import using_cores
from gpustats.loop import ContrastTest
from gpustats.memory import SHARE_OF_FREE, budget_of
from gpustats.merging import OutcomeSum
from gpustats.outcomes import Outcome
from gpustats.sweeping import Finish

if TYPE_CHECKING:
    from distributed import Client, Future, Worker

logger = logging.getLogger("gpustats")

SHARE_OF_WORKER = 4
"""A range is this part of what is left for each worker: large ones first, small ones last."""
MOST_TILES = 16
"""Tiles of a range at most: what is lost with a worker, and how long others wait to join in."""
LEAST_TILES_STREAMED = 6
"""Tiles of a range at least where it takes a pass over a store: computing then takes longer."""
MOST_LOSSES = 3
"""How many workers may be lost with one range: Dask's own ``allowed-failures`` by default."""

ONE_AT_A_TIME = Lock()
"""A process computes one range at a time, on all cores of its worker.

Products have the same bits only while nobody else changes the number of BLAS threads.
"""


class Piece(NamedTuple):
    """A range of the shuffles of one contrast; the first one brings what they have in common."""

    number: int
    indices: range
    is_first: bool


class Found(NamedTuple):
    """What a worker found, and what kind of machine it is."""

    kind: Kind
    outcomes: list[Outcome]


class Shipment(NamedTuple):
    """What every worker needs."""

    tests: Sequence[ContrastTest]
    device: str
    memory: int | None


def spread(
    crew: Crew,
    tests: Sequence[ContrastTest],
    finish: Finish,
    *,
    memory: int | None,
) -> tuple[list[Outcome], dict[str, ContrastMaps]]:
    """Compute the shuffles of tests on the workers of a cluster.

    Data in memory are sent to every worker once; a store is read by each. A worker computes one
    range at a time, on as many cores as it has threads. Results are added up as they arrive.

    Parameters
    ----------
    crew
        The workers.
    tests
        The contrasts.
    finish
        Told how many more shuffles are finished.
    memory
        Bytes that each worker may use for blocks of a store; half of its limit by default.

    Returns
    -------
    outcomes : list
        Of every contrast and statistic.
    reported : dict
        The maps of every contrast, by its name.

    Raises
    ------
    ValueError
        If a machine differs from the others and must not.
    ConnectionError
        If the scheduler is lost, or one range loses worker after worker.
    """
    pieces = deque(
        piece
        for number, test in enumerate(tests)
        for piece in cut_for(crew.size, number, test.task.indices, _least_tiles(test))
    )
    sums = [[OutcomeSum() for _ in test.statistics] for test in tests]
    dispatch = _Dispatch(crew.client, Shipment(tests, crew.device, memory))
    try:
        for piece, found in dispatch.results(pieces, crew):
            crew.check(found.kind)
            for total, outcome in zip(sums[piece.number], found.outcomes, strict=True):
                total.add(outcome, f"shuffles {piece.indices.start} to {piece.indices.stop}")
            finish(len(piece.indices))
    finally:
        dispatch.cancel()
    outcomes = [total.whole() for of_test in sums for total in of_test]
    return outcomes, {test.task.contrast.name: test.reported for test in tests}


def _least_tiles(test: ContrastTest) -> int:
    """Return how many tiles of shuffles a range must have to be worth what it costs."""
    plan, load = test.task.plan, test.task.load
    by_blocks = plan is not None and plan.n_blocks > 1 and not load.spatial
    return LEAST_TILES_STREAMED if by_blocks else 1


def cut_for(n_workers: int, number: int, indices: range, least: int = 1) -> Iterator[Piece]:
    """Cut a range at multiples of tiles, so that the workers finish together."""
    start = indices.start
    while start < indices.stop:
        tiles = -(-(indices.stop - start) // SHUFFLE_TILE)
        size = max(least, min(MOST_TILES, tiles // (SHARE_OF_WORKER * n_workers)))
        stop = min((start // SHUFFLE_TILE + size) * SHUFFLE_TILE, indices.stop)
        yield Piece(number, range(start, stop), start == indices.start)
        start = stop


class _Dispatch:
    """Hand out ranges, and collect what comes back."""

    def __init__(self, client: Client, shipment: Shipment) -> None:
        self.client = client
        self.shipment = shipment
        self.sent = self._send()
        self.running: dict[str, tuple[Future, Piece]] = {}
        self.losses: dict[Piece, int] = {}

    def _send(self) -> Future:
        """Bring what all ranges need to all workers, once."""
        # a list of one: scatter takes others apart, and would make copies of what they share
        (sent,) = self.client.scatter([self.shipment], broadcast=True, hash=False)
        return sent

    def results(self, pieces: deque[Piece], crew: Crew) -> Iterator[tuple[Piece, Found]]:
        """Yield the result of every range in the order in which they come in."""
        from distributed import as_completed

        completed = as_completed()
        while pieces or self.running:
            n_new = min(len(pieces), crew.room - len(self.running))
            completed.update(self._submit([pieces.popleft() for _ in range(n_new)]))
            for future in completed.next_batch():
                _, piece = self.running.pop(future.key)
                found = self._result(future, piece)
                if found is None:
                    pieces.appendleft(piece)
                else:
                    yield piece, found

    def _submit(self, pieces: list[Piece]) -> list[Future]:
        """Have ranges computed by whichever workers are free."""
        futures = self.client.map(_compute, pieces, shipment=self.sent, pure=False)
        for future, piece in zip(futures, pieces, strict=True):
            self.running[future.key] = future, piece
        return list(futures)

    def _result(self, future: Future, piece: Piece) -> Found | None:
        """Return what was found; None if the range has to be computed again."""
        from distributed import KilledWorker

        lost = ConnectionError(
            f"shuffles {piece.indices.start} to {piece.indices.stop} were lost with worker after "
            "worker; see why these ended (memory?)"
        )
        try:
            found: Found = future.result()
        except KilledWorker as error:
            raise lost from error
        except CancelledError as error:
            # every worker that held the data was lost, and Dask cannot make them again
            if self.client.status != "running":
                raise ConnectionError("the Dask scheduler was lost") from error
            self.losses[piece] = self.losses.get(piece, 0) + 1
            if self.losses[piece] > MOST_LOSSES:
                raise lost from error
            if self.sent.cancelled():
                logger.warning(
                    "all workers were lost; going on as soon as there are others: start some, and "
                    "see why these ended (memory?)"
                )
                self.client.wait_for_workers(1)
                self.sent = self._send()
            return None
        return found

    def cancel(self) -> None:
        """Let nobody go on with what is not wanted any more."""
        if self.running and self.client.status == "running":
            self.client.cancel([future for future, _ in self.running.values()], force=True)
        self.running.clear()


@cache
def _kind_of_worker(device: str) -> Kind:
    """Look at this machine once, rather than for every range."""
    return kind_of_machine(device)


class _UnwantedError(Exception):
    """Nobody waits for this range any more."""


def _compute(piece: Piece, shipment: Shipment) -> Found | None:
    """Compute a range in a worker, on its share of the machine; None once it was cancelled."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def stop_if_unwanted(_: float) -> None:
        task = worker.state.tasks.get(key)
        if task is None or task.state == "cancelled":
            raise _UnwantedError

    try:
        with ONE_AT_A_TIME, using_cores(worker.state.nthreads):
            stop_if_unwanted(0)
            for number, other in enumerate(shipment.tests):
                if number != piece.number:
                    other.let_go()
            test = shipment.tests[piece.number]
            memory = _budget(worker, test, shipment.memory)
            test.task = test.task.of(piece.indices, test.engine, memory)
            outcomes = test.run(stop_if_unwanted, Nowhere())
    except _UnwantedError:
        return None
    if not piece.is_first:
        nothing = np.empty(0)
        outcomes = [replace(outcome, observed=nothing, limits=nothing) for outcome in outcomes]
    return Found(_kind_of_worker(shipment.device), outcomes)


def _budget(worker: Worker, test: ContrastTest, memory: int | None) -> int:
    """Return the bytes that a worker may use: as it was told, else a share of its own limit."""
    budget, limit = budget_of(test.engine, memory), worker.memory_manager.memory_limit
    return budget if memory or not limit else min(budget, int(SHARE_OF_FREE * limit))
