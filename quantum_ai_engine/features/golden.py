"""The kernel's own golden pair: made-up bars and the digest of the rows that they must give.

Any machine can check with it that its kernel gives the same bits as everywhere else.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.features import kernel

BARS = 2_000  # two weeks of ten minutes: several sessions
START_MS, INTERVAL_MS, DAY_MS = 1_700_000_400_000, 600_000, 86_400_000
DIGEST = "4a6753f134557909"


def bars() -> NDArray[np.float64]:
    """A walk [BARS, BAR_WIDTH] made of integers and divisions alone: the same everywhere."""
    rows = np.empty((BARS, kernel.BAR_WIDTH))
    state, close = 1, 100_000
    for i in range(BARS):
        state = state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407 & (1 << 64) - 1
        opened = close
        # Flat stretches and bars without volume belong to a market, and have neutral values.
        flat = i % 500 > 450
        close = close if flat else max(1_000, close + (state >> 40) % 401 - 200)
        high = max(opened, close) + (state >> 20) % 90
        low = min(opened, close) - (state >> 10) % 90
        if flat:
            opened = high = low = close
        volume = 0 if flat or i % 97 == 0 else (state >> 30) % 100_000
        prices = opened / 1_000, high / 1_000, low / 1_000, close / 1_000
        open_time = START_MS + i * INTERVAL_MS
        day = open_time // DAY_MS
        rows[i] = (
            *prices,
            volume / 8,
            open_time,
            INTERVAL_MS,
            day * DAY_MS,
            (day + 1) * DAY_MS,
            (day + 3) % 7,
        )
    return rows


def digest() -> str:
    """SHA-256 (16 hex digits) of the rows that this kernel makes of the golden bars."""
    return hashlib.sha256(kernel.matrix(bars()).tobytes()).hexdigest()[:16]
