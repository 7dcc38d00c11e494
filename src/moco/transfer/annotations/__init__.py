"""Annotated images: boxes, masks, keypoints and surfaces from VOC XML, COCO JSON and Cityscapes' maps, in one form and
checked where they are read, and outlines as masks.
"""

from moco.transfer.annotations.opening import open_annotations, same_categories
from moco.transfer.annotations.record import AnnotatedImage, Annotations, Instance, Skeleton, Surface

__all__ = ["AnnotatedImage", "Annotations", "Instance", "Skeleton", "Surface", "open_annotations", "same_categories"]
