"""How fast models are on this machine, one text at a time and in batches, and what that costs."""

from distil_trainer.latency_benchmark.benchmark import benchmark_latency
from distil_trainer.latency_benchmark.plot import plot_latency
from distil_trainer.latency_benchmark.table import latency_table

__all__ = ["benchmark_latency", "latency_table", "plot_latency"]
