"""How many channels an image file holds, and the values of those that Pillow does not read: NumPy's, DICOM, many bands.

C: channels   H, W: height and width
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from moco.data.bit_depth import GREY_AND_ALPHA, four_bands, raw_mode
from moco.data.dicom import dicom_shape, dicom_values, is_dicom
from moco.data.libtiff import note_first_only
from moco.data.open_image import check_size, open_image
from moco.errors import DataError

RGB = 3
_WIDTH, _HEIGHT, _BANDS, _PLANES, _EXTRA_BANDS = 256, 257, 277, 284, 338  # TIFF tags
_ALPHA = (1, 2, 999)  # TIFF 6.0, what a band after grey or RGB is; 999: Corel Draw
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how files begin; + for those of more than 4 GiB
_NUMPY = b"\x93NUMPY"
_COLOURS = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")  # Pillow's modes
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


def count_of(channels: int) -> str:
    """`1 channel`, `4 channels`."""
    return f"{channels} channel{'s' * (channels != 1)}"


class Layout(NamedTuple):
    """Height, width and channels of an image, as they are stored, and whether the last channel is alpha; of a TIFF file
    also how many pages begin with this one and are as large, of a DICOM file how many frames there are.
    """

    height: int
    width: int
    stored: int
    alpha: bool = False
    pages: int = 1
    frames: int = 1

    @property
    def usual(self) -> int:
        """Channels where no number is stated: 3 for grey, RGB and both with alpha, else all."""
        return RGB if self.stored - self.alpha in (1, RGB) else self.stored

    def fits(self, channels: int) -> bool:
        """Whether it can be given with so many: as it is, without its alpha, grey repeated three times, or by pages."""
        own = self.stored - self.alpha
        return channels in (self.stored, own) or (channels == RGB and own == 1) or self.by_pages(channels)

    def by_pages(self, channels: int) -> bool:
        """Whether its grey pages are so many channels; of three channels the first page is repeated instead."""
        return self.stored == 1 < self.pages == channels != RGB

    def check(self, channels: int) -> None:
        """Raise ValueError where it cannot."""
        if not self.fits(channels):
            raise ValueError(f"{self}, expected {channels}: {self.cure}")

    @property
    def cure(self) -> str:
        """What to do where it does not fit."""
        own = self.stored - self.alpha
        return f"state --channels {own}, or leave such files out with --exclude"

    def __str__(self) -> str:
        pages = f", {self.pages} pages" if self.pages > 1 else ""
        return f"{count_of(self.stored)}{', the last alpha' * self.alpha}{pages}"


def layout_of(image: Image.Image) -> Layout:
    """Of an image that Pillow has opened."""
    if _drops_bands(image):
        return Layout(image.height, image.width, _tags(image)[_BANDS])
    alpha = image.mode in _WITH_ALPHA or "transparency" in image.info
    colours = 1 if image.mode not in _COLOURS or raw_mode(image) == GREY_AND_ALPHA else RGB
    return Layout(image.height, image.width, colours + alpha, alpha)


def file_layout(file: IO[bytes]) -> Layout:
    """Of a file, from its first bytes.

    Raises:
        ValueError, OSError: it is no image.
    """
    if _begins(file, _NUMPY):
        return _numpy_layout(file)
    if is_dicom(file):
        return _dicom_layout(file)
    try:
        with open_image(file) as image:
            layout = layout_of(image)
    except UnidentifiedImageError:
        layout = _tiff_layout(file)
    return layout._replace(pages=_pages(file))


def open_values(file: IO[bytes], channels: int) -> Image.Image | np.ndarray:
    """The image of a file, its pixels unread, where Pillow reads all of its channels; else its values, (H, W, C).

    Raises:
        ValueError: other channels than these, which are what the caller can use; or values that cannot be read.
        OSError: no image.
    """
    if _begins(file, _NUMPY):
        _numpy_layout(file).check(channels)
        file.seek(0)
        return np.atleast_3d(np.load(file, allow_pickle=False))
    if is_dicom(file):
        layout = _dicom_layout(file)
        layout.check(channels)
        if layout.frames > 1:
            note_first_only()
        file.seek(0)
        return dicom_values(file)
    image = None
    try:
        image = open_image(file)
        layout = layout_of(image)
    except UnidentifiedImageError:
        layout = _tiff_layout(file)
    if not layout.fits(channels):
        layout = layout._replace(pages=_pages(file))
    layout.check(channels)
    if image is not None and layout.by_pages(channels):
        return _by_pages(image, channels)
    if image is None or image.format == "TIFF":
        place = file.tell()
        if _pages(file, most=2) > 1:
            note_first_only()
        file.seek(place)
    if image is not None and not _drops_bands(image):
        return image
    if image is not None:
        check_size(image)
    return _tiff_values(file, image, layout)


def in_channels(values: np.ndarray, channels: int) -> np.ndarray:
    """(H, W, channels) of (H, W, C) that fit: grey repeated, or without alpha."""
    if values.shape[2] == 1:
        return np.broadcast_to(values, (*values.shape[:2], channels))
    return values[..., :channels]


def _drops_bands(image: Image.Image) -> bool:
    """Whether Pillow would drop a band that is not alpha."""
    return any(kind not in _ALPHA for kind in _tags(image).get(_EXTRA_BANDS, ()))


def _tags(image: Image.Image) -> Any:
    return getattr(image, "tag_v2", {})


def _begins(file: IO[bytes], *starts: bytes) -> bool:
    file.seek(0)
    head = file.read(max(map(len, starts)))
    file.seek(0)
    return head.startswith(starts)


def _dicom_layout(file: IO[bytes]) -> Layout:
    height, width, channels, frames = dicom_shape(file)
    return Layout(height, width, channels, frames=frames)


def _numpy_layout(file: IO[bytes]) -> Layout:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if len(shape) not in (2, 3) or 0 in shape or dtype.kind not in "uif":
        raise ValueError(f"{dtype} array of shape {shape}: expected numbers (H, W) or (H, W, C), one image a file")
    height, width, *rest = shape
    return Layout(height, width, rest[0] if rest else 1)


def _tiff_layout(file: IO[bytes]) -> Layout:
    """Of a TIFF file that Pillow does not know."""
    directory = next(_directories(file), None)
    if directory is None:
        raise UnidentifiedImageError("not an image in a known format")
    extra = directory.get(_EXTRA_BANDS, ())
    alpha = bool(extra) and all(kind in _ALPHA for kind in extra)
    return Layout(int(directory[_HEIGHT]), int(directory[_WIDTH]), int(directory.get(_BANDS, 1)), alpha)


def _directories(file: IO[bytes]) -> Iterator[ImageFileDirectory_v2]:
    """What a TIFF file says of each of its pages; nothing of another file."""
    if not _begins(file, *_TIFF):
        return
    head = file.read(8)
    directory, seen = ImageFileDirectory_v2(head + (file.read(8) if 43 in head[2:4] else b"")), {0}
    while directory.next not in seen:
        seen.add(directory.next)
        file.seek(directory.next)
        directory.load(file)
        yield directory


def _pages(file: IO[bytes], *, most: int | None = None) -> int:
    """How many pages a file begins with that are as large as the first, at most `most`: 1 but for TIFF."""
    shapes: list[tuple[Any, ...]] = []
    with contextlib.suppress(Exception):  # a broken page leaves those before it
        for directory in itertools.islice(_directories(file), most):
            shapes.append(tuple(directory.get(tag) for tag in (_HEIGHT, _WIDTH, _BANDS)))
            if shapes[-1] != shapes[0]:
                return len(shapes) - 1
    return max(1, len(shapes))


def _by_pages(image: Image.Image, count: int) -> np.ndarray:
    """The first pages as channels, (H, W, count)."""
    check_size(image)
    pages = []
    for number in range(count):
        image.seek(number)
        pages.append(np.asarray(image.convert("L") if image.mode == "1" else image))
    return np.stack(pages, axis=2)


def _tiff_values(file: IO[bytes], image: Image.Image | None, layout: Layout) -> np.ndarray:
    """By tifffile; where that is not installed, by Pillow if it knows the file and there are four bands."""
    library = _tifffile()
    if library is None:
        if image is None or layout.stored != 4 or _tags(image).get(_PLANES) == 2:
            raise ValueError(f"TIFF of {layout}, which Pillow does not read: pip install 'moco-contrast[tiff]'")
        return four_bands(image, file)
    file.seek(0)
    with library.TiffFile(file) as opened:
        page = opened.pages.first
        values: np.ndarray = page.asarray()
        return np.atleast_3d(np.moveaxis(values, 0, -1) if page.axes.startswith("S") else values)


def _tifffile() -> ModuleType | None:
    """tifffile, or None where it is not installed."""
    try:
        import tifffile
    except ImportError:
        return None
    return tifffile


def agreed_channels(
    layouts: Iterable[tuple[str, Layout | None]], channels: int | None, name: str
) -> tuple[int, tuple[str, ...]]:
    """Channels that images of these names and layouts can all be given with, and lines on dropped alpha and pages.

    Raises:
        DataError: there is no such number, or they cannot be given with `channels`; two images are named.
    """
    known = [(item, layout) for item, layout in layouts if layout is not None]
    first = next(iter(known), None)
    if first is None:  # reading them says what is wrong
        return channels or RGB, ()
    wanted = channels or first[1].usual
    for item, layout in known:
        if channels is not None and not layout.fits(channels):
            raise DataError(f"{name}: {item} has {layout}, expected {channels}: {layout.cure}")
        if channels is None and layout.usual != wanted:
            raise DataError(
                f"{name}: {first[0]} has {first[1]}, {item} {layout}: choose one kind with --include or --exclude"
            )
    said = []
    dropped = next((item for item, layout in known if layout.alpha and wanted in (1, RGB)), None)
    if dropped is not None:
        said.append(f"{name}: the alpha channel of {dropped} is not used; where it is data, state --channels")
    return wanted, (*said, *_about_pages(known, wanted, name))


def _about_pages(known: list[tuple[str, Layout]], channels: int, name: str) -> Iterator[str]:
    """A line where files hold several images: which of them are used."""
    stacks = [layout for _, layout in known if layout.by_pages(channels)]
    if stacks:
        yield f"{name}: {len(stacks)} of {len(known)} files looked at have {channels} pages, which are the channels"
    paged = [(item, layout) for item, layout in known if layout.pages > 1 and not layout.by_pages(channels)]
    paged = paged or [(item, layout) for item, layout in known if layout.frames > 1]
    if not paged:
        return
    item, layout = paged[0]
    stackable = layout.by_pages(layout.pages)
    cure = f"are channels, state --channels {layout.pages}" if stackable else "matter, save each as a file of its own"
    what, count = ("pages", layout.pages) if layout.pages > 1 else ("frames", layout.frames)
    yield (
        f"{name}: {len(paged)} of {len(known)} files looked at have several {what} ({item}: {count:,}), of "
        f"which only the first is used; where they {cure}"
    )
