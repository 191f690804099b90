"""What gradwatch costs, measured: `python -m tests.benchmarks.bench_step` and `bench_import`."""
