"""Where the trials of a sweep run: in processes of this machine, or on a Ray cluster.

A job that fails is tried again a few times, and then has its failure for a result: none is lost.
"""

import contextlib
import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")
DIED = "its worker died"


class ExecutorError(Exception):
    """Jobs cannot be run at all: one sentence that says what to do."""


class Done(NamedTuple, Generic[Result]):
    """What became of the job at a place: a result, or else why it failed the last time."""

    place: int
    result: Result | None
    error: str
    attempts: int


class Executor(Protocol):
    """Runs jobs anywhere, in any order; `call`, jobs and results are pickled."""

    def run(
        self, call: Callable[[Job], Result], jobs: Sequence[Job], retries: int
    ) -> Iterator[Done[Result]]:
        """Each job once, as it is done; one that fails is tried again up to `retries` times."""


class Processes:
    """`workers` processes, started anew for it: nothing of this one is in them.

    Each has a queue of one job, so that the death of one is the failure of its own job alone.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"workers = {workers} is below 1")
        self._workers = workers

    def run(
        self, call: Callable[[Job], Result], jobs: Sequence[Job], retries: int
    ) -> Iterator[Done[Result]]:
        waiting: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        done: queue.SimpleQueue[Done[Result]] = queue.SimpleQueue()
        for place in range(len(jobs)):
            waiting.put((place, 1))
        workers = min(self._workers, len(jobs))
        desks = [_Desk(call, jobs, retries, waiting, done) for _ in range(workers)]
        for desk in desks:
            desk.start()
        try:
            for _ in jobs:
                yield done.get()
        finally:
            for _ in desks:
                waiting.put((_STOP, 0))
            for desk in desks:
                desk.end()


_STOP = -1


class _Desk(threading.Thread, Generic[Job, Result]):
    """Hands one job after another to a process of its own, and a new process after a death."""

    def __init__(
        self,
        call: Callable[[Job], Result],
        jobs: Sequence[Job],
        retries: int,
        waiting: "queue.SimpleQueue[tuple[int, int]]",
        done: "queue.SimpleQueue[Done[Result]]",
    ) -> None:
        super().__init__(daemon=True)
        self._call, self._jobs, self._retries = call, jobs, retries
        self._waiting, self._done = waiting, done
        self._process = _process()

    def run(self) -> None:
        while (job := self._waiting.get())[0] != _STOP:
            self._do(*job)

    def end(self) -> None:
        """Wait for what is being done, and let the process go."""
        self.join()
        self._process.shutdown()

    def _do(self, place: int, attempt: int) -> None:
        try:
            result = self._process.submit(self._call, self._jobs[place]).result()
        except BrokenProcessPool:
            self._process.shutdown()
            self._process = _process()
            self._fail(place, attempt, DIED)
        except Exception as error:
            self._fail(place, attempt, described(error))
        else:
            self._done.put(Done(place, result, "", attempt))

    def _fail(self, place: int, attempt: int, why: str) -> None:
        if attempt <= self._retries:
            self._waiting.put((place, attempt + 1))
        else:
            self._done.put(Done(place, None, why, attempt))


def _process() -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """In a worker: end when the process is gone that it works for, even if that was killed."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class RayCluster:
    """A Ray cluster; each job wants one core, and what it reads must be there on every node.

    `address` is as for `ray.init`: `auto`, `host:port`, or `local` for one on this machine.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def run(
        self, call: Callable[[Job], Result], jobs: Sequence[Job], retries: int
    ) -> Iterator[Done[Result]]:
        ray = _ray()
        with self._connected(ray):
            # Ray's own retries are off: how often a job is tried is counted here, for all alike.
            remote = ray.remote(num_cpus=1, max_retries=0)(call)
            pending = {remote.remote(job): (place, 1) for place, job in enumerate(jobs)}
            while pending:
                [ref], _ = ray.wait(list(pending), num_returns=1)
                place, attempt = pending.pop(ref)
                try:
                    yield Done(place, ray.get(ref), "", attempt)
                except ray.exceptions.RayError as error:
                    if attempt <= retries:
                        pending[remote.remote(jobs[place])] = place, attempt + 1
                    else:
                        cause = getattr(error, "cause", None)
                        why = described(cause) if isinstance(cause, Exception) else DIED
                        yield Done(place, None, why, attempt)

    @contextlib.contextmanager
    def _connected(self, ray: Any) -> Iterator[None]:
        if ray.is_initialized():
            yield
            return
        try:
            ray.init(address=self._address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ExecutorError(
                f"--ray {self._address}: no cluster answers ({str(error).splitlines()[0]}); "
                "start one with `ray start --head`"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ModuleNotFoundError as error:
        raise ExecutorError("--ray: pip install 'quantum-ai-engine[sweep]'") from error
    return ray


def described(error: BaseException) -> str:
    """An error in one line, the same wherever it was raised.

    >>> described(ValueError("no bars"))
    'ValueError: no bars'
    """
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
