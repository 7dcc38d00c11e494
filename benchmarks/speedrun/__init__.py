"""A speed-run for self-supervised learning: accuracy against time and against FLOPs. The rules are in README.md."""
