"""Networks around a backbone: R-CNN detectors with a feature pyramid or on C4, their surface head with what it learns
from, the dilated FCN, and how their BatchNorm is tuned and measured. Modules and tensors come in; no task, schedule or
score is known here.
"""
