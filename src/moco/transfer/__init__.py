"""Transfer: a backbone fine-tuned for detection and segmentation, beside the same training from other weights.

The protocol is the paper's (1911.05722, section 4.2): everything is tuned, BatchNorm included, and every
initialisation gets the same new layers, schedule and hyperparameters.
"""
