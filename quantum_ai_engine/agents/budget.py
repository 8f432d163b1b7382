"""The CPU contract: how long to rest so that the process keeps its budget, and one thread each.

Needs nothing but the standard library: `bound_threads` comes before all that makes threads.
"""

import math
import os
import sys
from collections import deque
from collections.abc import MutableMapping
from typing import NamedTuple

WINDOW_S = 10.0
SAMPLES = 200  # kept of a window; between two kept ones the dearest course is assumed
RECENT_ROUNDS = 16
SHORTEST_REST_S = 1e-6
LARGEST_ROUND = 0.5  # of the budget of a window
# Each library whose threads would come on top of the pool's workers, and who reads the variable
# when it is loaded: OpenMP (torch, XGBoost, LightGBM, and Arrow for its CPU pool), OpenBLAS (in
# NumPy and SciPy), MKL and oneDNN (in torch), Accelerate (NumPy on macOS), numexpr, numba's
# parallel kernels, polars, Arrow's reader threads.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "ARROW_IO_THREADS",
)


def bound_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have every library that is loaded from now on work in the calling thread alone."""
    environment.update(dict.fromkeys(THREAD_VARIABLES, "1"))


def bound_loaded() -> None:
    """The same for what torch and Arrow decide at run time; only for those that are loaded."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)  # of this thread and those that it starts; workers say it again
    if (arrow := sys.modules.get("pyarrow")) is not None:
        arrow.set_cpu_count(1)


class Sample(NamedTuple):
    """A moment by the monotonic clock, and the CPU seconds that the process had used by then."""

    now_s: float
    cpu_s: float


class CpuBudget:
    """Keeps the CPU seconds of any 10 s window at or below `cores` × 10 s.

    This holds while no round lasts longer than it is thought to; at most what the idle process
    burns in a rest comes on top.

    A round, once begun, can burn up to `workers` cores and one for the event loop, never more
    than the machine has. So it may begin only when even that leaves every window that ends
    while it lasts within the budget. It is thought to last twice as long as the longest of the
    last 16 rounds, at most to its deadline and until it alone has burnt half of the budget; and
    at least (cores − workers) × 10 s, because so much can be foreseen for nothing: workers alone
    then never rest. With half a core for the loop that is 5 s, the usual deadline. A process
    that has one core for everything foresees 2.5 s, and longer rounds may break its budget.

    A rest ends after 10 s, whatever is burnt meanwhile. What an idle process burns does not
    prolong it; where rests burn more than half of the budget, it is not kept.

    All of the process counts, in all threads, from the first sample on; other processes, such as
    an embedded Redis, do not.

    >>> budget = CpuBudget(1.5, workers=1, machine_cores=2, deadline_s=5.0)
    >>> for second in range(8):
    ...     budget.update(second, second)
    >>> budget.wait_s(8.0, 8.0), budget.wait_s(9.0, 10.0)
    (0.0, 1.0)
    """

    def __init__(self, cores: float, workers: int, machine_cores: int, deadline_s: float) -> None:
        self._allowed_s = cores * WINDOW_S
        self._burn = min(workers + 1, machine_cores)
        self._free_s = max(0.0, (cores - min(workers, machine_cores)) * WINDOW_S)
        self._deadline_s = deadline_s
        self._rest_ends_s = math.inf  # of the rest that has begun
        self._samples: deque[Sample] = deque()
        self._rounds: deque[float] = deque(maxlen=RECENT_ROUNDS)

    def update(self, now_s: float, cpu_s: float) -> None:
        """Take note of the CPU time used so far; the more often, the less is assumed."""
        samples = self._samples
        if len(samples) > 1 and now_s - samples[-2].now_s < WINDOW_S / SAMPLES:
            samples.pop()
        samples.append(Sample(now_s, cpu_s))
        while len(samples) > 1 and samples[1].now_s <= now_s - WINDOW_S:
            samples.popleft()

    def took(self, seconds: float) -> None:
        """Take note of how long a round has lasted, from when its batch was received."""
        self._rounds.append(seconds)

    def wait_s(self, now_s: float, cpu_s: float) -> float:
        """For how long the next round must be put off, if nothing is burnt in the meantime."""
        self.update(now_s, cpu_s)
        return self._bounded(now_s, self._needed_s(now_s, cpu_s))

    def spares(self, now_s: float, cpu_s: float, more_s: float) -> bool:
        """Whether a round could begin at once even after `more_s` more CPU seconds: work that is
        no round asks so, and stays behind.

        >>> budget = CpuBudget(1.5, workers=1, machine_cores=2, deadline_s=5.0)
        >>> budget.spares(0.0, 0.0, more_s=0.5)
        True
        """
        self.update(now_s, cpu_s)
        return self._needed_s(now_s, cpu_s + more_s) <= SHORTEST_REST_S

    def _needed_s(self, now_s: float, cpu_s: float) -> float:
        burn = self._burn
        lowest = cpu_s - self._allowed_s  # what must have been used before the window …
        highest = lowest + burn * self._span_s()  # … when the round begins, and when it ends
        wait, before = 0.0, self._samples[0].cpu_s
        for then_s, used_s in self._samples:
            # The round needs some of what was burnt up to this sample to be out of the window.
            if before < highest and before < used_s >= lowest:
                # At the latest it was burnt right before, with all cores.
                wait = max(wait, then_s + WINDOW_S - now_s - (used_s - lowest) / burn)
            before = used_s
        return wait

    def _bounded(self, now_s: float, wait: float) -> float:
        """A rest ends a window after it was first asked for; then another one may begin."""
        wait = min(wait, self._rest_ends_s - now_s)
        if wait <= SHORTEST_REST_S:
            self._rest_ends_s = math.inf
            return 0.0
        self._rest_ends_s = min(self._rest_ends_s, now_s + WINDOW_S)
        return wait

    def _span_s(self) -> float:
        """How long the next round may last."""
        foreseen = min(self._deadline_s, 2.0 * max(self._rounds, default=0.0))
        # All of the budget for it would let no other second of the window burn anything.
        return max(self._free_s, min(foreseen, LARGEST_ROUND * self._allowed_s / self._burn))
