"""What the picture book refuses, and what it takes."""

import numpy as np
import pytest

from moco.data import picturebook
from moco.data.picturebook import draw_annotated, draw_book
from moco.errors import DataError


@pytest.mark.parametrize("draw", [draw_book, draw_annotated])
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"num_images": 0, "seed": 0}, "num_images=0; give a whole number of at least 1"),
        ({"num_images": -3, "seed": 0}, "num_images=-3"),
        ({"num_images": 2.5, "seed": 0}, r"num_images=2\.5"),
        ({"num_images": True, "seed": 0}, "num_images=True"),
        ({"num_images": 1, "seed": -1}, "seed=-1; give a whole number from 0 to"),
        ({"num_images": 1, "seed": 2**63}, "seed=9223372036854775808"),
        ({"num_images": 1, "seed": None}, "seed=None"),
        ({"num_images": 1, "seed": 0, "size": 8}, "size=8; give a whole number of at least 16"),
        ({"num_images": 1, "seed": 0, "size": "64"}, "size='64'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, arguments, complaint):
    with pytest.raises(DataError, match=complaint):
        draw(**arguments)


@pytest.mark.parametrize("seed", [-1, 2**62, "0"])
def test_split_seeds_out_of_range_are_refused(seed):
    with pytest.raises(DataError, match=f"seed={seed!r}; "):
        picturebook.splits(seed)


def test_numpy_whole_numbers_are_welcome():
    plain, numpy = draw_book(2, seed=3, size=32), draw_book(np.int64(2), seed=np.int32(3), size=np.int16(32))
    np.testing.assert_array_equal(plain.images, numpy.images)
