"""Measuring: time per stage, peak memory, and how much encoding once saves against encoding again for every object.

    from unipixel.bench import BenchSettings, run

    report = run(BenchSettings())
    report.to_json()

Everything is measured on random weights, whose speed is that of trained ones.
"""

from unipixel.bench.run import PARTS, BenchReport, BenchSettings, StageTime, run_bench

__all__ = ["PARTS", "BenchSettings", "BenchReport", "StageTime", "run_bench"]
