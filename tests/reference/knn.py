"""Weighted kNN as one would write it down: one query at a time, all similarities, a stable sort, in float64."""

import numpy as np


def knn_predict(train_ND, train_labels, test_MD, *, num_neighbors: int, knn_temperature: float) -> np.ndarray:
    """Class of each query row, (M,); the earlier row wins a tie of similarity, the lower class a tie of votes."""
    train_ND, test_MD = np.asarray(train_ND, np.float64), np.asarray(test_MD, np.float64)
    train_labels = np.asarray(train_labels)
    predictions = []
    for query_D in test_MD:
        cosine_N = np.array([row_D @ query_D / (np.linalg.norm(row_D) * np.linalg.norm(query_D)) for row_D in train_ND])
        nearest = np.argsort(-cosine_N, kind="stable")[:num_neighbors]
        votes = np.zeros(train_labels.max() + 1)
        for row in nearest:
            votes[train_labels[row]] += np.exp(cosine_N[row] / knn_temperature)
        predictions.append(votes.argmax())
    return np.array(predictions)
