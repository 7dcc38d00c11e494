"""Grids of pretraining runs that answer one question each: what does a choice of the method contribute?

What a run of the grid does is handed in by `moco.commands.ablate`.
"""
