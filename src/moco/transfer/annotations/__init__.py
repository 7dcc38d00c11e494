"""Annotated images: boxes, masks and keypoints from VOC XML and COCO JSON, checked where they are read."""

from moco.transfer.annotations.opening import open_annotations, same_categories
from moco.transfer.annotations.record import AnnotatedImage, Annotations, Instance, Skeleton, Surface

__all__ = ["AnnotatedImage", "Annotations", "Instance", "Skeleton", "Surface", "open_annotations", "same_categories"]
