"""The ten objects. Each function cuts one anew from its random variation; colours are not its business."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType

from moco.data.picturebook.outline import Shape, Vary, blob, box, ellipse, ring_sector, strip, trapezoid


def house(vary: Vary) -> Shape:
    """Seen from the front."""
    half, eaves, foot, peak = vary(0.55, 0.75), vary(-0.25, 0.0), vary(0.72, 0.9), -vary(0.8, 0.98)
    over, ridge, lean = vary(0.1, 0.24), vary(0.0, 0.2), vary(-0.15, 0.15)
    door, door_half, door_top = vary(-0.15, 0.15), vary(0.11, 0.17), vary(0.28, 0.42)
    pane, pane_y, pane_x = vary(0.11, 0.16), eaves + vary(0.22, 0.32), half * vary(0.52, 0.62)
    roof = [(lean - ridge, peak), (lean + ridge, peak), (half + over, eaves), (-half - over, eaves)]
    parts = [
        ("first", box(-half, eaves, half, foot)),  # wall
        ("second", roof),
        ("dark", box(door - door_half, door_top, door + door_half, foot)),
    ]
    panes = [box(x - pane, pane_y - pane, x + pane, pane_y + pane) for x in (-pane_x, pane_x)]
    parts += [("light", outline) for outline in panes]
    return parts


def car(vary: Vary) -> Shape:
    """Seen from the side, driving to the right."""
    belt, sill, roof_y, nose = vary(-0.12, 0.0), vary(0.33, 0.42), -vary(0.5, 0.65), vary(0.02, 0.12)
    rear, front = -vary(0.88, 0.98), vary(0.88, 0.98)
    cabin_rear, cabin_front = -vary(0.55, 0.75), vary(0.4, 0.55)
    roof_rear, roof_front = cabin_rear + vary(0.15, 0.3), cabin_front - vary(0.22, 0.36)
    body = [(rear, sill), (rear, belt + 0.04), (cabin_rear, belt), (cabin_front, belt), (front, belt + nose)]
    cabin = [(cabin_rear, belt + 0.02), (roof_rear, roof_y), (roof_front, roof_y), (cabin_front, belt + 0.02)]
    post, top, gap = (roof_rear + roof_front) / 2, roof_y + 0.09, 0.05
    rear_window = [(cabin_rear + 0.14, belt), (roof_rear + 0.05, top), (post - gap, top), (post - gap, belt)]
    front_window = [(post + gap, belt), (post + gap, top), (roof_front - 0.05, top), (cabin_front - 0.14, belt)]
    parts = [("first", [*body, (front, sill)]), ("first", cabin), ("light", rear_window), ("light", front_window)]
    radius, rear_x, front_x = vary(0.2, 0.27), -vary(0.48, 0.6), vary(0.48, 0.6)
    for x in (rear_x, front_x):
        parts.append(("dark", blob(x, sill, radius, radius, vary, 0.06, 12)))  # wheel
        parts.append(("light", ellipse(x, sill, radius * 0.45, radius * 0.45, 8)))  # wheel
    return parts


def tree(vary: Vary) -> Shape:
    """A fir of two to four tiers."""
    tiers, width, tip, base = int(vary(2.5, 4.5)), vary(0.5, 0.72), -vary(0.88, 1.0), vary(0.45, 0.62)
    trunk, foot, lean = vary(0.08, 0.14), vary(0.86, 1.0), vary(-0.06, 0.06)
    right = [(lean, tip)]
    for tier in range(1, tiers + 1):
        share = tier / tiers
        reach, y = width * (0.35 + 0.65 * share) * vary(0.94, 1.06), tip + (base - tip) * share
        right.append((reach, y))
        if tier < tiers:
            right.append((reach * vary(0.4, 0.55), y - 0.03))
    crown = right + [(-x, height) for x, height in reversed(right[1:])]
    return [("second", box(-trunk, base - 0.1, trunk, foot)), ("first", crown)]


def fish(vary: Vary) -> Shape:
    """Swimming to the right."""
    length, height, middle = vary(0.55, 0.68), vary(0.32, 0.46), vary(0.2, 0.28)
    root, spread, tail = middle - length * 0.85, vary(0.34, 0.5), -vary(0.88, 1.0)
    fin_x, fin_top = middle + vary(-0.25, 0.0), -height - vary(0.15, 0.3)
    eye_x, eye_y, eye = middle + length * 0.58, -height * vary(0.15, 0.35), vary(0.1, 0.13)
    caudal = [(root, -0.08), (tail, -spread), (tail + vary(0.1, 0.25), 0.0), (tail, spread), (root, 0.08)]
    dorsal = [(fin_x + 0.25, -height * 0.75), (fin_x - 0.12, fin_top), (fin_x - 0.22, -height * 0.75)]
    side = [(middle + 0.1, 0.02), (middle - 0.18, vary(-0.05, 0.05)), (middle - 0.02, vary(0.18, 0.26))]
    return [
        ("second", caudal),  # tail
        ("second", dorsal),  # fin
        ("first", blob(middle, 0.0, length, height, vary, 0.04)),  # body
        ("third", side),  # fin
        ("light", ellipse(eye_x, eye_y, eye, eye, 10)),
        ("dark", ellipse(eye_x + 0.01, eye_y, eye * 0.5, eye * 0.5, 8)),
    ]


def flower(vary: Vary) -> Shape:
    """One bloom of five to eight petals, a stem, a leaf to the right."""
    petals, turn, centre_y = int(vary(5, 9)), vary(0.0, math.tau), -vary(0.32, 0.42)
    reach, petal, disc = vary(0.3, 0.38), vary(0.17, 0.22), vary(0.15, 0.22)
    foot, leaf_y = (vary(-0.2, 0.2), vary(0.9, 1.0)), vary(0.5, 0.7)
    share = (leaf_y - centre_y) / (foot[1] - centre_y)
    leaf = (foot[0] * share, leaf_y)
    tip = (leaf[0] + vary(0.3, 0.42), leaf_y - vary(0.15, 0.32))
    blade = [leaf, (leaf[0] + 0.08, tip[1] - 0.02), tip, (tip[0] - 0.06, leaf_y + 0.05)]
    parts = [("dark", strip((0.0, centre_y), foot, vary(0.09, 0.13))), ("dark", blade)]
    for number in range(petals):
        angle = turn + math.tau * number / petals
        x, y = reach * math.cos(angle), centre_y + reach * math.sin(angle)
        parts.append(("first", blob(x, y, petal, petal, vary, 0.12, 9)))
    parts.append(("first", ellipse(0.0, centre_y, reach, reach, 10)))  # petal
    parts.append(("second", blob(0.0, centre_y, disc, disc, vary, 0.08, 10)))
    return parts


def mug(vary: Vary) -> Shape:
    """Seen a little from above, its handle to the right."""
    x, half, base_half = -0.2, vary(0.48, 0.6), vary(0.4, 0.56)
    rim, base, depth = -vary(0.6, 0.75), vary(0.65, 0.82), vary(0.1, 0.16)
    band, band_width = vary(-0.1, 0.2), vary(0.16, 0.26)
    handle_y, handle_x, handle_rise = vary(-0.1, 0.1), vary(0.36, 0.46), vary(0.34, 0.44)
    side = (half + base_half) / 2
    handle = ring_sector(x + side - 0.06, handle_y, handle_x, handle_rise, vary(0.13, 0.17), math.radians(100))
    return [
        ("first", handle),
        ("first", trapezoid(x, rim, base, half, base_half)),  # body
        ("second", trapezoid(x, band, band + band_width, side, side - 0.02)),
        ("light", ellipse(x, rim, half, depth)),
        ("dark", ellipse(x, rim, half - 0.09, depth - 0.05, 12)),
    ]


def sailboat(vary: Vary) -> Shape:
    """Sailing to the left: the small sail in front of the mast, the large one behind it."""
    deck, keel, top, mast = vary(0.4, 0.5), vary(0.75, 0.9), -vary(0.9, 1.0), vary(-0.15, 0.05)
    bow, stern = -vary(0.82, 0.98), vary(0.75, 0.95)
    boom, head, tack = deck - vary(0.08, 0.16), top + vary(0.02, 0.12), vary(0.5, 0.65)
    clew = (mast + vary(0.5, 0.68), boom)
    hull = [(bow, deck), (stern, deck), (stern - vary(0.15, 0.28), keel), (bow + vary(0.28, 0.42), keel)]
    return [
        ("first", hull),
        ("second", [(mast + 0.03, head), clew, (mast + 0.03, boom)]),  # sail
        ("third", [(mast - 0.03, head + 0.08), (mast - tack, boom), (mast - 0.03, boom)]),  # sail
        ("dark", strip((mast, top), (mast, deck + 0.02), vary(0.08, 0.11))),
    ]


def mushroom(vary: Vary) -> Shape:
    """A spotted cap on a stalk."""
    half, brim, height, foot = vary(0.72, 0.95), vary(-0.05, 0.12), vary(0.62, 0.85), vary(0.8, 0.95)
    sag, top_half, foot_half = vary(0.05, 0.16), vary(0.16, 0.24), vary(0.2, 0.32)
    over = [(half * math.cos(a), brim - height * math.sin(a)) for a in (math.pi * step / 12 for step in range(13))]
    under = [(half * math.cos(a), brim - sag * math.sin(a)) for a in (-math.pi * step / 5 for step in range(4, 0, -1))]
    parts = [
        ("light", trapezoid(0.0, brim - 0.05, foot, top_half, foot_half)),  # stalk
        ("first", over + under),  # cap
    ]
    shift, spots = vary(-0.25, 0.25), int(vary(4, 7))
    for number in range(spots):
        angle = math.pi * (number + 0.5 + shift) / spots
        far = vary(0.4, 0.7)
        x, y = half * far * math.cos(angle), brim - height * (0.08 + far * math.sin(angle))
        size = vary(0.08, 0.14)
        parts.append(("second", blob(x, y, size, size, vary, 0.2, 8)))  # spot
    return parts


def cat(vary: Vary) -> Shape:
    """The face."""
    half, height, y = vary(0.6, 0.72), vary(0.5, 0.62), vary(0.15, 0.25)
    ear_x, ear_top, ear_in = half * vary(0.78, 0.95), -vary(0.8, 0.98), half * vary(0.1, 0.25)
    eye_x, eye_y, eye, eye_height = half * vary(0.4, 0.5), y - vary(0.1, 0.2), vary(0.13, 0.18), vary(0.14, 0.2)
    nose, nose_y, pupil = vary(0.06, 0.1), y + vary(0.12, 0.2), vary(0.35, 0.6)
    parts: Shape = []
    for side in (-1.0, 1.0):
        root = (side * ear_in, y - height * 0.85)
        outer, tip = (side * half * 0.97, y - height * 0.2), (side * ear_x, ear_top)
        ear = [root, tip, outer]
        middle = ((root[0] + tip[0] + outer[0]) / 3, (root[1] + tip[1] + outer[1]) / 3)
        inner = [(0.5 * x + 0.5 * middle[0], 0.5 * y + 0.5 * middle[1]) for x, y in ear]
        parts += [("first", ear), ("second", inner)]
    parts.append(("first", blob(0.0, y, half, height, vary, 0.05, 18)))  # head
    slants = [vary(-0.16, 0.0), vary(0.04, 0.2)]
    for side in (-1.0, 1.0):
        for slant in slants:
            start = (side * 0.2, nose_y + 0.08 + slant * 0.3)
            end = (side * vary(0.9, 1.02), nose_y + 0.08 + slant * 1.6)
            parts.append(("dark", strip(start, end, 0.05)))  # whisker
        parts.append(("light", ellipse(side * eye_x, eye_y, eye, eye_height, 10)))
        parts.append(("dark", ellipse(side * eye_x, eye_y, eye * pupil, eye_height * 0.8, 8)))
    parts.append(("dark", [(-nose, nose_y), (nose, nose_y), (0.0, nose_y + nose * 1.3)]))
    return parts


def person(vary: Vary) -> Shape:
    """Standing, arms and legs anyhow."""
    shoulder_y, hip_y, head, head_y = vary(-0.5, -0.4), vary(0.15, 0.28), vary(0.19, 0.25), -vary(0.68, 0.78)
    shoulder, hip, arm, leg = vary(0.24, 0.34), vary(0.18, 0.28), vary(0.15, 0.2), vary(0.18, 0.24)
    parts: Shape = []
    for side in (-1.0, 1.0):
        lift, length = math.radians(vary(-35, 50)), vary(0.52, 0.66)
        start = (side * (shoulder - 0.05), shoulder_y + 0.09)
        hand = (start[0] + side * length * math.cos(lift), start[1] + length * math.sin(lift))
        parts.append(("first", strip(start, hand, arm)))
    for side in (-1.0, 1.0):
        foot = (side * (hip + vary(-0.08, 0.3)), vary(0.88, 1.0))
        parts.append(("second", strip((side * (hip - leg / 2), hip_y - 0.04), foot, leg)))
    parts.append(("first", trapezoid(0.0, shoulder_y, hip_y, shoulder, hip)))  # torso
    parts.append(("third", blob(0.0, head_y, head, head * 1.1, vary, 0.06, 12)))
    return parts


SHAPES: MappingProxyType[str, Callable[[Vary], Shape]] = MappingProxyType(
    {shape.__name__: shape for shape in (house, car, tree, fish, flower, mug, sailboat, mushroom, cat, person)}
)
CLASSES = tuple(SHAPES)  # names of labels 0 to 9
