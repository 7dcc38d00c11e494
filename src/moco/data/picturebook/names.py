"""Names and numbers of classes, parts and keypoints.

Left and right are the picture's, with the object upright: in a mirrored drawing the left ear is still the one on the
left. Front, rear, bow and stern belong to the object and turn with it.
"""

from __future__ import annotations

from types import MappingProxyType

PARTS: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "house": ("wall", "roof", "door", "window"),
        "car": ("body", "cabin", "window", "wheel"),
        "tree": ("crown", "trunk"),
        "fish": ("body", "tail", "fin", "eye"),
        "flower": ("petal", "disc", "stem", "leaf"),
        "mug": ("body", "handle", "band", "rim"),
        "sailboat": ("hull", "mast", "sail"),
        "mushroom": ("cap", "stalk", "spot"),
        "cat": ("head", "ear", "eye", "nose", "whisker"),
        "person": ("head", "torso", "arm", "leg"),
    }
)
"""Parts of each class. The keys, in order, are the classes."""

CLASSES: tuple[str, ...] = tuple(PARTS)
"""Names of labels 0 to 9."""

PART_IDS: MappingProxyType[tuple[str, str], int] = MappingProxyType(
    {
        pair: number
        for number, pair in enumerate(((name, part) for name, parts in PARTS.items() for part in parts), start=1)
    }
)
"""Number of each (class, part) in part maps, from 1; 0 is the background."""

KEYPOINTS: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "house": ("peak", "left_eave", "right_eave", "left_corner", "right_corner"),
        "car": ("rear_wheel", "front_wheel", "rear_bumper", "front_bumper", "roof"),
        "tree": ("tip", "left_bough", "right_bough", "trunk_top", "trunk_foot"),
        "fish": ("mouth", "eye", "tail_root", "upper_tail", "lower_tail"),
        "flower": ("bloom", "neck", "leaf_root", "leaf_tip", "stem_foot"),
        "mug": ("handle", "rim_at_handle", "rim_opposite", "base_at_handle", "base_opposite"),
        "sailboat": ("mast_top", "mast_foot", "bow", "stern", "clew"),
        "mushroom": ("cap_top", "left_brim", "right_brim", "stalk_top", "stalk_foot"),
        "cat": ("left_ear", "right_ear", "left_eye", "right_eye", "nose"),
        "person": ("head", "left_hand", "right_hand", "left_foot", "right_foot"),
    }
)
"""Keypoints of each class in order; as many for each class."""

NUM_KEYPOINTS = 5


def mirrored_order(class_name: str) -> list[int]:
    """Order of a class's keypoints after mirroring: every left one changes places with its right twin."""
    names = KEYPOINTS[class_name]
    swap = {"left": "right", "right": "left"}
    twins = ["_".join(swap.get(word, word) for word in name.split("_")) for name in names]
    return [names.index(twin) for twin in twins]
