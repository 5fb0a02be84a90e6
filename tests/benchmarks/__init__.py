"""Benchmarks of the package: ``python -m tests.benchmarks``."""
