"""Both agents at several batch sizes: our TorchScript agents, eager PyTorch, onnxruntime."""

import io
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from benchmarks.measure import side_by_side
from quantum_ai_engine.agents.bundle import read_bundle
from quantum_ai_engine.agents.load import load_agent
from quantum_ai_engine.agents.torchscript import PAYLOAD
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.training.export import train_bundle
from quantum_ai_engine.training.fit import TrainOptions
from quantum_ai_engine.training.models.registry import MODELS

BATCHES = (1, 8, 64, 256)
START_MS = 1_735_689_600_000


def section() -> str:
    """Text and table of the page."""
    return "\n".join(
        [
            "Per sample, one core, one thread. *Agent* is what the engine pays: normalising, "
            "padding to a batch shape whose answers are proven bit-identical (at least 4), the "
            "TorchScript module, decoding. The others are the bare model on ready tensors.",
            "",
            "| agent | batch | agent | TorchScript | eager | onnxruntime |",
            "|---|---|---|---|---|---|",
            *table(),
        ]
    )


def table() -> list[str]:
    """Rows of a markdown table, µs per sample on one core."""
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        history = PaperMarket(1, 2, start_ms=START_MS).table(1_500)
        options = TrainOptions(epochs=1, samples_per_epoch=256)
        for kind in ("gru", "patchtst"):
            bundle = train_bundle(kind, history, Path(directory), options, lambda _: None)
            rows += _rows(kind, bundle.path)
    return rows


def _rows(kind: str, path: Path) -> list[str]:
    agent = load_agent(read_bundle(path))
    agent.warm_up()
    script = torch.jit.load(str(path / PAYLOAD))
    eager = MODELS[kind]().eval()
    shape = (agent.feature_set.window, len(agent.feature_set.columns))
    rng = np.random.default_rng(0)
    rows = []
    for batch in BATCHES:
        raw = rng.standard_normal((batch, *shape))
        normal = raw.astype(np.float32)
        tensor = torch.from_numpy(normal)
        onnx = _onnx(eager, normal.shape)
        repeats = max(3, 256 // batch)

        def agent_runs(raw: np.ndarray = raw, n: int = repeats) -> None:
            for _ in range(n):
                agent.predict(raw)

        def torch_runs(
            module: torch.nn.Module, inputs: torch.Tensor = tensor, n: int = repeats
        ) -> None:
            with torch.inference_mode():
                for _ in range(n):
                    module(inputs)

        def onnx_runs(
            session: onnxruntime.InferenceSession = onnx,
            inputs: np.ndarray = normal,
            n: int = repeats,
        ) -> None:
            for _ in range(n):
                session.run(None, {"x": inputs})

        works = [agent_runs, lambda: torch_runs(script), lambda: torch_runs(eager), onnx_runs]
        timings = side_by_side(works, batch * repeats, runs=15)
        cells = " | ".join(t.show("µs") for t in timings)
        rows.append(f"| {kind} | {batch} | {cells} |")
    return rows


def _onnx(model: torch.nn.Module, shape: tuple[int, ...]) -> onnxruntime.InferenceSession:
    """The same model in onnxruntime for one batch shape, one thread."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(shape),),
            file,
            input_names=["x"],
            dynamo=False,
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file.getvalue(), options)
