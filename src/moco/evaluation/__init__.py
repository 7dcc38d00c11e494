"""Evaluation of any nn.Module, which knows nothing of MoCo: features, kNN, and kNN while training."""

from moco.evaluation.features import extract_features
from moco.evaluation.knn import knn_accuracy, knn_predict, pixel_features
from moco.evaluation.monitor import KnnMonitor

__all__ = ["KnnMonitor", "extract_features", "knn_accuracy", "knn_predict", "pixel_features"]
