"""DICOM files by pydicom, an extra: values as they are meant, white where there is most."""

from __future__ import annotations

from typing import IO, Any

import numpy as np

_START, _OFFSET = b"DICM", 128  # PS3.10, 7.1: behind a preamble


def is_dicom(file: IO[bytes]) -> bool:
    """Whether a file begins as DICOM does."""
    file.seek(_OFFSET)
    start = file.read(len(_START))
    file.seek(0)
    return start == _START


def dicom_shape(file: IO[bytes]) -> tuple[int, int, int, int]:
    """Height, width, channels and number of frames, without a look at the pixels.

    Raises:
        ValueError: pydicom is not installed, or there is no image in the file.
    """
    stated = _library().dcmread(file, stop_before_pixels=True)
    if "Rows" not in stated or "Columns" not in stated:
        raise ValueError("a DICOM file without an image")
    frames = stated.get("NumberOfFrames") or 1
    return int(stated.Rows), int(stated.Columns), int(stated.get("SamplesPerPixel", 1)), int(frames)


def dicom_values(file: IO[bytes]) -> np.ndarray:
    """(H, W, 1) of grey, or (H, W, 3) of colour, of the first frame.

    Grey is rescaled by the slope and intercept that the file states (PS3.3, C.7.6.16.2.9); where it is stored with the
    smallest value as white (MONOCHROME1), it is mirrored within the range of its stored bits.

    Raises:
        ValueError: pydicom is not installed, or colours by a palette.
    """
    library = _library()
    stated = library.dcmread(file)
    kind = str(stated.get("PhotometricInterpretation", ""))
    if kind.startswith("PALETTE"):
        raise ValueError(f"DICOM of {kind}: save it as RGB")
    values = np.atleast_3d(library.pixels.pixel_array(stated, index=0))
    slope, intercept = (
        float(stated.get(name, other)) for name, other in (("RescaleSlope", 1), ("RescaleIntercept", 0))
    )
    if values.shape[2] > 1 or (kind != "MONOCHROME1" and (slope, intercept) == (1, 0)):
        return values
    values = values.astype(np.int64)
    if kind == "MONOCHROME1":
        span = 2 ** int(stated.BitsStored)
        values = (-1 if int(stated.get("PixelRepresentation", 0)) else span - 1) - values
    if (slope, intercept) == (1, 0):
        return values.astype(np.uint8) if span == 256 and values.min() >= 0 else values
    whole = slope.is_integer() and intercept.is_integer()
    return values * int(slope) + int(intercept) if whole else (values * slope + intercept).astype(np.float32)


def _library() -> Any:
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise ValueError("a DICOM file, which pydicom reads: pip install 'moco-contrast[dicom]'") from error
    return pydicom
