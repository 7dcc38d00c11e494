"""What any nn.Module is worth: kNN, probes, fine-tuning, scores without labels, beside the networks to beat; the monitor
of a run. Knows nothing of MoCo. `settings` loads without PyTorch.
"""
