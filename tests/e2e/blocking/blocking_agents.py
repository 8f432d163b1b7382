"""An agent that answers as `momentum` does, until a file tells it to block, or to eat memory."""

import ctypes
import time
from pathlib import Path

import msgspec

from quantum_ai_engine.agents import rules

HOLD_THE_LOOP = Path("/run/block-loop")
HOLD_A_WORKER = Path("/run/block-pool")
EAT_MEMORY = Path("/run/eat-memory")
FOR_S = 3600
EATEN_BYTES = 2**30


def load(bundle):
    """The agent of a bundle of the kind `blocking`, whose payload is a rule."""
    manifest = msgspec.structs.replace(bundle.manifest, kind="momentum")
    agent = rules.load(msgspec.structs.replace(bundle, manifest=manifest))
    answer, eaten = agent.logits, []

    def logits(windows):
        if HOLD_THE_LOOP.exists():
            ctypes.PyDLL(None).sleep(FOR_S)  # with the interpreter's lock, so that nothing turns
        if HOLD_A_WORKER.exists():
            time.sleep(FOR_S)
        if EAT_MEMORY.exists():
            eaten.append(b"\1" * EATEN_BYTES)
        return answer(windows)

    agent.logits = logits
    return agent
