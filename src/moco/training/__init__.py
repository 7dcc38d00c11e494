"""The training loop around `moco.contrast`: device, schedule, checkpoints, what a run says and leaves behind."""
