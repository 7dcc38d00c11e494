"""Fine-tuning, the same for every task: what a task must offer, how long and at which rates is trained, the loop with
its checkpoints, and the comparison of initialisations with its table. No task is known here by name.
"""
