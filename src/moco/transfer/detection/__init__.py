"""Detection, instance segmentation, keypoints and LVIS as tasks: annotated images as tensors, which of them are drawn
how often, average precision, and the picture of answers.
"""
