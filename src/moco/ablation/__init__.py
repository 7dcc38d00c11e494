"""Grids of pretraining runs that answer one question each: what does a choice of the method contribute?

Puts pretraining and evaluation together for `moco ablate`. Only `worker`, `measure` and `probe` load PyTorch, and they
run in processes of their own.
"""
