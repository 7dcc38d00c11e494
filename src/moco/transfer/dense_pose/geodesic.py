"""Distances over the body's surface, from a file of the user's: their licence keeps them out of this project.

V: vertices of the charts   W: vertices of the mesh   P: points
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moco.errors import DataError
from moco.transfer.annotations.surface import PARTS

SPREAD = 0.255  # k, in the distances' unit, of 1802.00434 section 3
_NEEDED = ("part", "u", "v", "distances")
_ADVICE = "see docs/transfer.md, Dense pose"
_ROUNDING = 1e-3


@dataclasses.dataclass(frozen=True)
class Geodesics:
    """The body's mesh as its charts see it.

    Attributes:
        source: as the user named it.
        parts: (V,) int64, the chart of each vertex, 1 to 24.
        uv: (V, 2) float32, its place there, 0 to 1.
        vertices: (V,) int64, its number in the mesh, as a vertex on a seam lies on several charts.
        distances: (W, W), geodesic, in the unit of `SPREAD`.
    """

    source: str
    parts: np.ndarray
    uv: np.ndarray
    vertices: np.ndarray
    distances: np.ndarray

    def nearest(self, parts: np.ndarray, uv: np.ndarray) -> np.ndarray:
        """The mesh's vertex nearest to each place on a chart: (P,) int64; -1 for part 0.

        Args:
            parts: (P,), 0 to 24.
            uv: (P, 2).
        """
        found = np.full(len(parts), -1, dtype=np.int64)
        for part in np.unique(parts[parts > 0]).tolist():
            asked, known = np.flatnonzero(parts == part), np.flatnonzero(self.parts == part)
            places, places_known = (torch.from_numpy(np.float32(values)) for values in (uv[asked], self.uv[known]))
            # Not by matrix products, whose rounding would exchange neighbours.
            apart = torch.cdist(places, places_known, compute_mode="donot_use_mm_for_euclid_dist")
            found[asked] = self.vertices[known[apart.argmin(dim=1).numpy()]]
        return found

    def similarity(self, truth: np.ndarray, said: np.ndarray) -> float:
        """Geodesic point similarity of vertices (P,), equation (1) of 1802.00434: the mean of exp(-d² / 2k²) over the
        points, 0 for a point that is said to be background (-1). From 0 to 1.
        """
        apart = self.distances[truth, np.maximum(said, 0)].astype(np.float64)
        return float(np.where(said >= 0, np.exp(-(apart**2) / (2 * SPREAD**2)), 0).mean())


def read_geodesics(path: str | Path) -> Geodesics:
    """From a .npz or .safetensors file with the arrays part (V,), u (V,), v (V,), distances (W, W) and, where a vertex
    lies on several charts, vertex (V,).

    Raises:
        DataError: it is no such file; the message says what is wrong.
    """
    path = Path(path).expanduser()
    arrays = _arrays(path)
    missing = [name for name in _NEEDED if name not in arrays]
    if missing:
        raise DataError(f"{path} holds no {', '.join(missing)}: need {', '.join(_NEEDED)}; {_ADVICE}")
    arrays.setdefault("vertex", np.arange(len(arrays["part"])))
    fault = _fault(arrays)
    if fault:
        raise DataError(f"{path}: {fault}; {_ADVICE}")
    uv = np.stack([arrays["u"], arrays["v"]], axis=1).astype(np.float32)
    parts, vertices = (arrays[name].astype(np.int64) for name in ("part", "vertex"))
    return Geodesics(str(path), parts, uv, vertices, arrays["distances"])


def _arrays(path: Path) -> dict[str, Any]:
    if path.suffix not in (".npz", ".safetensors"):
        raise DataError(f"{path}: expected a .npz or .safetensors file of geodesic distances; {_ADVICE}")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as content:
                return {name: content[name] for name in content.files}
        from safetensors.numpy import load_file

        return load_file(path)
    except Exception as error:  # whatever a damaged file makes the readers raise
        said = " ".join(str(error).split())[:150]
        raise DataError(f"{path} cannot be read as {path.suffix[1:]} ({said}); {_ADVICE}") from error


def _fault(arrays: dict[str, Any]) -> str | None:
    """What is wrong with the arrays, in a few words."""
    part, distances, vertex = arrays["part"], arrays["distances"], arrays["vertex"]
    rows = {name: arrays[name].shape for name in ("part", "u", "v", "vertex")}
    if part.ndim != 1 or any(shape != part.shape for shape in rows.values()):
        return f"arrays of shapes {rows}: expected one value each vertex"
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1]:
        return f"distances of shape {distances.shape}: expected a square"
    if any(array.dtype.kind not in "iu" for array in (part, vertex)):
        return f"part and vertex of types {part.dtype}, {vertex.dtype}: expected whole numbers"
    if any(arrays[name].dtype.kind != "f" for name in ("u", "v", "distances")):
        return "u, v and distances: expected floating point numbers"
    lacking = sorted(set(range(1, PARTS + 1)) - set(part.tolist()))
    if lacking or part.min() < 1 or part.max() > PARTS:
        return f"part {part.min()} to {part.max()}, none of {lacking[:3]}: expected each of 1 to {PARTS}"
    if vertex.min() < 0 or vertex.max() >= len(distances):
        return f"vertex {vertex.min()} to {vertex.max()}: expected 0 to {len(distances) - 1}, a row of distances"
    if not all(((arrays[name] >= 0) & (arrays[name] <= 1)).all() for name in ("u", "v")):
        return "u or v outside 0 to 1"
    if not (distances >= 0).all() or not np.isfinite(distances).all():
        return "distances that are negative or not finite"
    if np.abs(np.diagonal(distances)).max() > _ROUNDING or _uneven(distances):
        return "distances that are not symmetric with 0 from each vertex to itself"
    return None


def _uneven(distances: np.ndarray) -> bool:
    """Whether the way back has another length; in blocks, as there may be gigabytes."""
    step = 1024
    starts = range(0, len(distances), step)
    blocks = (np.abs(distances[row : row + step] - distances[:, row : row + step].T).max() for row in starts)
    return any(bool(block > _ROUNDING) for block in blocks)
