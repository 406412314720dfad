"""Streams and events of the stand-in: when work is executed.

Normally work is executed as it is given. Asynchronously (`Schedule.asynchronous`) it is put off:
each stream keeps its own order, the null stream and the blocking streams wait for each other,
events tie streams together, and of what may run next a seeded generator chooses. Whatever the
host or another stream needs and did not wait for is then missing, or overwritten, in some seeds.

All work is put off: kernels, functions of arrays, copies in both directions, and the reuse of freed
memory. One piece of work is executed whole: two kernels, or a kernel and a copy, never overlap, so
that a race shows only where one order of whole pieces gives a wrong result. Streams of one process
are meant to be used by one thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from random import Random

from .stand_in_devices import CUDARuntimeError, current_device_id, machine

Action = Callable[[], object]


class Work:
    """One piece of work, and what must be done before it beside its stream's earlier work."""

    __slots__ = ("action", "after", "done")

    def __init__(self, action: Action, after: tuple[Work, ...] = ()) -> None:
        self.action = action
        self.after = after
        self.done = False

    def is_ready(self) -> bool:
        return all(work.done for work in self.after)


class Queue:
    """The work of a stream that is still to be executed, in order."""

    def __init__(self, device_id: int, *, is_null: bool = False, is_blocking: bool = True) -> None:
        self.device_id = device_id
        self.is_null = is_null
        self.is_blocking = is_blocking
        self.pending: deque[Work] = deque()

    def must_wait_for(self, other: Queue) -> bool:
        """Tell whether CUDA orders a stream after another: the legacy rule of the null stream."""
        return (
            other is not self
            and other.device_id == self.device_id
            and ((self.is_null and other.is_blocking) or (other.is_null and self.is_blocking))
        )


class Schedule:
    """Decide when the work of all streams is executed."""

    def __init__(self) -> None:
        self.random: Random | None = None
        self._eagerness = 0.0
        self._queues: list[Queue] = []

    @contextmanager
    def asynchronous(self, seed: int) -> Iterator[None]:
        """Put work off, in an order that the seed chooses; finish it at the end."""
        self.random = Random(seed)
        self._eagerness = self.random.choice((0.0, 0.25, 0.75))
        try:
            yield
            self.finish(lambda: not self._queues)
        finally:
            self.reset()

    def reset(self) -> None:
        """Forget work that was put off and execute what follows at once."""
        for queue in self._queues:
            queue.pending.clear()
        self._queues.clear()
        self.random = None

    def give(self, queue: Queue, action: Action, *after: Work) -> Work:
        """Give work to a stream; the device may come to some of its work meanwhile."""
        if self.random is None:
            work = Work(action)
            work.done = True
            action()
            return work
        work = self.put_off(queue, action, *after)
        while self.random and self._queues and self.random.random() < self._eagerness:
            self._step(self.random)
        return work

    def put_off(self, queue: Queue, action: Action, *after: Work) -> Work:
        """Give work to a stream and execute nothing now."""
        others = [other.pending[-1] for other in self._queues if queue.must_wait_for(other)]
        work = Work(action, (*after, *others))
        queue.pending.append(work)
        if queue not in self._queues:
            self._queues.append(queue)
        return work

    def pending_on(self, device_id: int) -> bool:
        """Tell whether a device has work to do."""
        return any(queue.device_id == device_id for queue in self._queues)

    def finish(self, is_finished: Callable[[], bool]) -> None:
        """Execute work until something holds."""
        while self.random and not is_finished():
            self._step(self.random)

    def _step(self, random: Random) -> None:
        """Execute the next work of one of the streams that need not wait."""
        queue = random.choice([queue for queue in self._queues if queue.pending[0].is_ready()])
        work = queue.pending.popleft()
        if not queue.pending:
            self._queues.remove(queue)
        work.done = True
        work.action()


schedule = Schedule()
_null_queues: dict[int, Queue] = {}
_current = threading.local()
_pointers = count(0x1000, 0x10)


def null_queue(device_id: int) -> Queue:
    """Return the null stream of a device."""
    return _null_queues.setdefault(device_id, Queue(device_id, is_null=True))


def forget_streams() -> None:
    """Make the null stream current, with nothing to do."""
    schedule.reset()
    _current.__dict__.clear()


def finish_queue(queue: Queue, reason: str) -> None:
    """Let the host wait for a stream, and note why."""
    machine.synchronizations.append(reason)
    schedule.finish(lambda: not queue.pending)


class Event:
    """``cupy.cuda.Event``."""

    def __init__(self, *, disable_timing: bool = False) -> None:
        self._timed = not disable_timing
        self._work: Work | None = None
        self._time_s: float | None = None

    @property
    def done(self) -> bool:
        return self._work is None or self._work.done

    def record(self, stream: Stream | None = None) -> None:
        queue = (get_current_stream() if stream is None else stream)._queue

        def note_time() -> None:
            self._time_s = time.perf_counter()

        self._work = schedule.give(queue, note_time)

    def synchronize(self) -> None:
        machine.synchronizations.append("Event.synchronize")
        schedule.finish(lambda: self.done)


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Return the milliseconds between two events, which mean nothing on a pretended device."""
    for event in (start_event, end_event):
        if not event._timed or event._work is None:
            raise CUDARuntimeError(400)
        if not event.done:
            raise CUDARuntimeError(600)
    return 1e3 * (end_event._time_s - start_event._time_s)


class Stream:
    """``cupy.cuda.Stream``."""

    null: Stream

    def __init__(
        self,
        null: bool = False,
        non_blocking: bool = False,
        ptds: bool = False,
        priority: int | None = None,
    ) -> None:
        if ptds or priority:
            raise NotImplementedError("the stand-in knows neither per-thread nor urgent streams")
        self._is_null = null
        self.ptr = 0 if null else next(_pointers)
        self.device_id = -1 if null else current_device_id()
        self._own = Queue(self.device_id, is_blocking=not non_blocking)

    @property
    def _queue(self) -> Queue:
        return null_queue(current_device_id()) if self._is_null else self._own

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.ptr == self.ptr

    def __hash__(self) -> int:
        return self.ptr

    def __repr__(self) -> str:
        return f"<Stream {self.ptr} (device {self.device_id})>"

    def __enter__(self) -> Stream:
        self._match_device()
        _stack().append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _stack(current_device_id() if self._is_null else self.device_id).pop()

    def use(self) -> Stream:
        self._match_device()
        _stack()[-1:] = [self]
        return self

    def _match_device(self) -> None:
        if self.device_id not in (-1, current_device_id()):
            raise RuntimeError(
                f"The device that the stream is created on ({self.device_id})"
                f" does not match with the current device ({current_device_id()})"
            )

    @property
    def done(self) -> bool:
        return not self._queue.pending

    @property
    def is_non_blocking(self) -> bool:
        return not self._queue.is_blocking

    def synchronize(self) -> None:
        finish_queue(self._queue, "Stream.synchronize")

    def record(self, event: Event | None = None) -> Event:
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        if event._work is not None:
            schedule.give(self._queue, lambda: None, event._work)


Stream.null = Stream(null=True)


def _stack(device_id: int | None = None) -> list[Stream]:
    """Return the streams that were made current on a device by this thread, the newest last."""
    key = str(current_device_id() if device_id is None else device_id)
    return _current.__dict__.setdefault(key, [Stream.null])


def get_current_stream(device_id: int = -1) -> Stream:
    """Return the stream on which work of a device goes."""
    return _stack(None if device_id == -1 else device_id)[-1]
