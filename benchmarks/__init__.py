"""What is fast and what is not, measured: `python -m benchmarks` writes docs/benchmarks.md."""
