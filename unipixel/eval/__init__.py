"""Evaluation: benchmarks, protocols and reports."""
