"""The picture book: ten kinds of objects that the package draws itself, for machines without data or network.

Objects differ by shape alone; colours, pose, background and clutter are random and say nothing of the class. The same
drawing yields boxes, masks, keypoints and part maps.
"""

from moco.data.picturebook.annotate import AnnotatedBook, draw_annotated
from moco.data.picturebook.book import PictureBook, draw_book, split_seeds, splits
from moco.data.picturebook.names import CLASSES, KEYPOINTS, PART_IDS, PARTS

__all__ = [
    "CLASSES",
    "KEYPOINTS",
    "PARTS",
    "PART_IDS",
    "AnnotatedBook",
    "PictureBook",
    "draw_annotated",
    "draw_book",
    "split_seeds",
    "splits",
]
