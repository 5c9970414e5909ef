"""Benchmarks, the cost model, and the losses that a training run must come to."""
