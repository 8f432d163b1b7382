"""Every agent at several batch sizes, beside eager PyTorch, onnxruntime and OpenVINO."""

import io
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import LARGEST_BATCH
from quantum_ai_engine.agents.bundle import Bundle
from quantum_ai_engine.agents.bundled import BundledAgent
from quantum_ai_engine.agents.load import load_agent
from quantum_ai_engine.agents.torchscript import PAYLOAD, TorchScriptAgent, ready
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.export import train_bundle
from quantum_ai_engine.training.models.registry import FAMILIES, family
from quantum_ai_engine.training.options import TrainingError, TrainOptions

BATCHES = (1, 8, 64, 256)
ODD = (5, 65)  # sizes that no shape fits: padded to the next
BUDGET_S = 4.0  # of one row of the table
HOUR_MS = 3_600_000
RANDOM_BATCHES = 10_000  # or as many as fit into …
RANDOM_S = 120.0
PADDED = ("padding 5 to 8", "padding 65 to 128")
PEERS_TEXT = (
    "µs per sample, one core, one thread: p50 and, in brackets, p99 of single calls; all columns "
    "of a row were timed in turn. *Agent* is what the engine pays: normalising, the model, "
    "decoding to probabilities. *Ours* is the bare TorchScript module that serves, *plain* the "
    "fitted model in TorchScript, the others the same model."
)
SHAPES_TEXT = (
    "Any batch must give the same bits; *differing answers* counts those of batches of random "
    "sizes and orders that are not the bits of one batch of 256. A size that no proven shape fits "
    "is padded to the next: *padding* is what the module takes longer for it than for the size "
    "itself, were its bits to be trusted. *First call* is the first of a worker thread after its "
    "warm-up, and its ratio to the median of later ones."
)
Work = Callable[[], object]
Floats = NDArray[np.float64]


def section() -> str:
    """Text and tables of the page."""
    torch.set_num_threads(1)
    peers, shapes = [], []
    with tempfile.TemporaryDirectory() as directory:
        for kind in FAMILIES:
            bundle = trained(kind, Path(directory))
            if bundle is None:
                continue
            agent = load_agent(bundle)
            assert isinstance(agent, BundledAgent)
            agent.warm_up()
            peers += peer_rows(kind, agent)
            if isinstance(agent, TorchScriptAgent):
                shapes += shape_rows(kind, agent)
    first = [f"first call, batch {batch}" for batch in BATCHES]
    return "\n".join(
        [
            PEERS_TEXT,
            "",
            *header("agent", "batch", "agent", "ours", "plain", "eager", "onnxruntime", "OpenVINO"),
            *peers,
            "",
            SHAPES_TEXT,
            "",
            *header("agent", "proven shapes", "differing answers", *PADDED, *first),
            *shapes,
        ]
    )


def header(*names: str) -> list[str]:
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]


def trained(kind: str, directory: Path) -> Bundle | None:
    """A bundle of that kind, hardly trained; None where its library is missing."""
    rate = 3e-4 if kind == "transformer" else 3e-3 if kind == "gru" else 1e-3
    options = TrainOptions(epochs=1, samples_per_epoch=512, batch=16, learning_rate=rate)
    try:
        return train_bundle(kind, trends(), directory, options, lambda _: None).bundle
    except (TrainingError, ModuleNotFoundError) as error:
        print(f"{kind}: {error}", flush=True)
        return None


def trends(bars: int = 1_800) -> BarTable:
    """Hourly bars of one symbol whose drift keeps its sign for forty bars: soon learned."""
    rng = np.random.default_rng(5)
    sign = np.repeat(rng.choice([-1.0, 1.0], bars // 40 + 1), 40)[:bars]
    close = 100.0 * np.exp(np.cumsum(0.002 * (rng.standard_normal(bars) + sign)))
    opened = np.append(100.0, close[:-1]) * np.exp(0.0005 * rng.standard_normal(bars))
    stray = np.exp(0.001 * rng.random((2, bars)))
    high, low = np.maximum(opened, close) * stray[0], np.minimum(opened, close) / stray[1]
    volume = np.exp(rng.standard_normal(bars))
    return BarTable(
        ("TREND",),
        np.zeros(bars, dtype=np.int32),
        "1h",
        1_700_000_000_000 // HOUR_MS * HOUR_MS + np.arange(bars) * HOUR_MS,
        np.stack([opened, high, low, close, volume], axis=-1),
    )


def peer_rows(kind: str, agent: BundledAgent) -> list[str]:
    """The rows of one kind: neural models have peers, trees and rules are themselves."""
    rows = []
    for batch in BATCHES:
        raw = raw_windows(agent, batch)
        works: list[Work] = [lambda raw=raw: agent.predict(raw)]  # type: ignore[misc]
        if isinstance(agent, TorchScriptAgent):
            works += peers(kind, agent, raw.astype(np.float32))
        seconds = alternate(works)
        cells = [
            f"{np.median(s) / batch * 1e6:,.1f} ({np.percentile(s, 99) / batch * 1e6:,.1f})"
            for s in seconds
        ]
        rows.append(
            f"| {kind} | {batch} | " + " | ".join([*cells, *["—"] * (6 - len(cells))]) + " |"
        )
        print(rows[-1], flush=True)
    return rows


def peers(kind: str, agent: TorchScriptAgent, normal: NDArray[np.float32]) -> list[Work]:
    """The bare models on ready inputs: ours, plain TorchScript, eager, onnxruntime, OpenVINO."""
    scripted = ready(torch.jit.load(io.BytesIO(agent.source.read(PAYLOAD))))
    eager = family(kind).model().eval()  # type: ignore[attr-defined]
    plain = torch.jit.freeze(torch.jit.script(eager))
    inputs = torch.from_numpy(normal)

    def runs(module: torch.nn.Module) -> Work:
        def run() -> object:
            with torch.inference_mode():
                return module(inputs)

        return run

    model = onnx_model(eager, inputs)
    return [
        *map(runs, (scripted, plain, eager)),
        onnx_runs(model, normal),
        vino_runs(model, normal),
    ]


def onnx_model(model: torch.nn.Module, inputs: torch.Tensor) -> bytes:
    """The model as ONNX, for one batch shape."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (inputs,), file, input_names=["x"], dynamo=False)
    return file.getvalue()


def onnx_runs(model: bytes, normal: NDArray[np.float32]) -> Work:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options)
    return lambda: session.run(None, {"x": normal})


def vino_runs(model: bytes, normal: NDArray[np.float32]) -> Work:
    core = openvino.Core()
    hints: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # on processors that could, it would take bfloat16
    }
    request = core.compile_model(core.read_model(model), "CPU", hints).create_infer_request()
    return lambda: request.infer({0: normal}, share_inputs=True, share_outputs=True)


def shape_rows(kind: str, agent: TorchScriptAgent) -> list[str]:
    """What padding costs and how the first calls of a fresh thread compare with later ones."""
    module = ready(torch.jit.load(io.BytesIO(agent.source.read(PAYLOAD))))
    costs = []
    for size in ODD:
        padded = next(batch for batch in agent.batches if batch >= size)
        inputs = [
            torch.from_numpy(raw_windows(agent, n).astype(np.float32)) for n in (padded, size)
        ]
        with torch.inference_mode():
            seconds = alternate([lambda x=x: module(x) for x in inputs])  # type: ignore[misc]
        long, short = (float(np.median(s)) for s in seconds)
        costs.append(f"{(long - short) * 1e6:,.0f} of {long * 1e6:,.0f} µs")
    proven = " ".join(map(str, agent.batches))
    cells = [proven, differing_bits(agent), *costs, *first_calls(agent)]
    return [f"| {kind} | " + " | ".join(cells) + " |"]


def first_calls(agent: TorchScriptAgent) -> list[str]:
    """The first call of each batch size in a fresh thread after its warm-up, by later ones."""
    cells: list[str] = []

    def work() -> None:
        agent.warm_up()
        for batch in BATCHES:
            raw = raw_windows(agent, batch)
            first, *later = (timed(lambda raw=raw: agent.predict(raw)) for _ in range(12))  # type: ignore[misc]
            cells.append(f"{first * 1e6:,.0f} µs, {first / float(np.median(later)):.2f} ×")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return cells


def raw_windows(agent: BundledAgent, batch: int) -> Floats:
    shape = (batch, agent.feature_set.window, len(agent.feature_set.columns))
    return 0.01 * np.random.default_rng(0).standard_normal(shape)


def timed(work: Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def alternate(works: Sequence[Work]) -> list[list[float]]:
    """Seconds of single calls, all works in turn, after three of each.

    The order is drawn anew each time: who follows a relative finds the caches warm.
    """
    for _ in range(3):
        cost = sum(timed(work) for work in works)
    rounds = int(min(max(BUDGET_S / cost, 5), 2_000))
    rng = np.random.default_rng(0)
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for index in rng.permutation(len(works)):
            seconds[index].append(timed(works[index]))
    return seconds


def differing_bits(agent: BundledAgent) -> str:
    """How many answers of random batches differ in a bit from those of one large batch."""
    windows = raw_windows(agent, LARGEST_BATCH)
    whole = agent.predict(windows)
    rng = np.random.default_rng(1)
    differing, batches, until = 0, 0, time.perf_counter() + RANDOM_S
    while batches < RANDOM_BATCHES and time.perf_counter() < until:
        size = int(np.exp(rng.uniform(0.0, np.log(LARGEST_BATCH + 1))))
        some = rng.permutation(LARGEST_BATCH)[:size]
        differing += int(np.count_nonzero(agent.predict(windows[some]) != whole[some]))
        batches += 1
    return f"{differing} in {batches:,} batches"
