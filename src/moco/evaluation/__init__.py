"""What any module is worth, beside the networks that it has to beat: kNN, probes, fine-tuning, scores without labels,
and the monitor of a run. Knows nothing of MoCo. `settings` loads without PyTorch.
"""
