"""Run all benchmarks and write docs/benchmarks.md."""

from pathlib import Path

from benchmarks import end_to_end, inference, kernel
from benchmarks.measure import machine

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def main() -> None:
    kernel_rows, inference_rows, daemon_rows = kernel.table(), inference.table(), end_to_end.table()
    text = f"""# Benchmarks

Made by `make bench` on {machine()}. Numbers are medians, with the lowest and highest run in
brackets. The machine is shared and noisy: compare within a table, not across machines.

## The feature kernel
Both sets, {kernel.kernel.COLUMN_COUNT} columns, one core. The last column says how many times
slower the same source is when Python runs it uncompiled.

| what | per bar | uncompiled |
|---|---|---|
{chr(10).join(kernel_rows)}

## Inference
Per sample, one core, one thread. *Agent* is what the engine pays: normalising, padding to a batch
shape whose answers are proven bit-identical (at least 4), the TorchScript module, decoding. The
others are the bare model on ready tensors.

| agent | batch | agent | TorchScript | eager | onnxruntime |
|---|---|---|---|---|---|
{chr(10).join(inference_rows)}

## The daemon, end to end
Bars into a real Redis on the same machine, `gru` and `patchtst`, {end_to_end.SYMBOLS} symbols of
the paper market; from XREAD to the committed and published signal. The producer, the daemon and
Redis share the cores; CPU and memory are those of producer and daemon together. At full speed a
batch holds up to 1,000 bars, and every bar of it waits for the whole batch.

| load | bars | signals | bars/s | p50 | p99 | CPU, cores | peak memory |
|---|---|---|---|---|---|---|---|
{chr(10).join(daemon_rows)}
"""
    PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
