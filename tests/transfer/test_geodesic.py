"""Files of geodesic distances: read without running code, and each fault in one line."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from moco.errors import DataError
from moco.transfer.dense_pose.geodesic import read_geodesics
from tests.transfer.drawn_people import geodesic_arrays, write_geodesics


def test_both_formats_hold_the_same(tmp_path):
    arrays = geodesic_arrays()
    save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, tmp_path / "a.safetensors")
    first, second = read_geodesics(tmp_path / "a.safetensors"), read_geodesics(write_geodesics(tmp_path / "a.npz"))
    for name in ("parts", "uv", "vertices", "distances"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name


ARRAYS = geodesic_arrays()
COUNT = len(ARRAYS["part"])
UNEVEN = ARRAYS["distances"].copy()
UNEVEN[3, 300] += 1
BAD = {
    "missing": ({"u": None}, "holds no u"),
    "objects": ({"u": np.array([None] * COUNT)}, "cannot be read as npz"),
    "shapes": ({"u": ARRAYS["u"][1:]}, "one value each vertex"),
    "no square": ({"distances": ARRAYS["distances"][1:]}, "expected a square"),
    "types": ({"part": ARRAYS["part"].astype(np.float32)}, "expected whole numbers"),
    "types of distances": ({"distances": ARRAYS["distances"].astype(np.int64)}, "expected floating point"),
    "a part is missing": ({"part": np.minimum(ARRAYS["part"], 23)}, r"none of \[24\]"),
    "part 0": ({"part": np.append(ARRAYS["part"][1:], 0)}, "part 0 to 24"),
    "few rows": ({"distances": ARRAYS["distances"][1:, 1:]}, "a row of distances"),
    "u": ({"u": ARRAYS["u"] * 2}, "u or v outside 0 to 1"),
    "negative": ({"distances": -ARRAYS["distances"]}, "negative or not finite"),
    "infinite": ({"distances": ARRAYS["distances"] + np.inf}, "negative or not finite"),
    "diagonal": ({"distances": ARRAYS["distances"] + 1}, "not symmetric with 0"),
    "uneven": ({"distances": UNEVEN}, "not symmetric with 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line(tmp_path, name):
    change, said = BAD[name]
    with pytest.raises(DataError, match=said) as error:
        read_geodesics(write_geodesics(tmp_path / "bad.npz", **change))
    assert "docs/transfer.md" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["none.npz", "none.safetensors", "Pdist_matrix.pkl", "text.npz"])
def test_what_is_no_such_file_is_refused(tmp_path, name):
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match="docs/transfer.md"):
        read_geodesics(tmp_path / name)
