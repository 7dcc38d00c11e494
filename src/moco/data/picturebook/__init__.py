"""The picture book: ten kinds of objects that the package draws itself, for machines without data or network.

Objects differ by shape alone; colours, pose, background and clutter are random and say nothing of the class.
"""

from moco.data.picturebook.book import PictureBook, draw_book, splits
from moco.data.picturebook.shapes import CLASSES

__all__ = ["CLASSES", "PictureBook", "draw_book", "splits"]
