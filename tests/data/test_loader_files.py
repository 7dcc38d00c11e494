"""Files of every kind come out of the loader upright and in colour; damaged ones are passed over."""

import dataclasses
import io
import itertools

import numpy as np
import torch
from moco.workload import view_recipe
from PIL import Image

from moco import recipes
from moco.data.folder import FolderSource
from moco.data.loader import ViewLoader
from moco.data.order import EpochOrder
from moco.data.skipped import SkippedFiles
from moco.data.views import ViewRecipe

V2 = view_recipe(recipes.v2())
UNTOUCHED = dataclasses.replace(
    V2,
    crop_scale=(1.0, 1.0),
    flip_probability=0.0,
    jitter_probability=0.0,
    grayscale_probability=0.0,
    blur_probability=0.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)


def views_of(source, recipe: ViewRecipe, skipped, *, batch, steps):
    """Indices of the images, and the views, of the first steps."""
    order = EpochOrder(np.arange(len(source)), batch_size=batch, seed=3)
    loader = ViewLoader(source, order, recipe, image_size=32, device=torch.device("cpu"), skipped=skipped)
    batches = loader.batches(0)
    try:
        return [(order.batch(step), *pair) for step, pair in enumerate(itertools.islice(batches, steps))]
    finally:
        batches.close()


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def files_of_every_kind():
    """Name to file; each shows the same upright picture, white above black, dark red in its lower left quarter."""
    picture = Image.new("RGB", (32, 32), "white")
    picture.paste("black", (0, 16, 32, 32))
    picture.paste((160, 0, 0), (0, 16, 16, 32))
    opaque = picture.copy()
    opaque.putalpha(Image.new("L", (32, 32), 90))
    files = {
        "rgb.png": encoded(picture, format="PNG"),
        "palette.png": encoded(picture.quantize(8), format="PNG"),
        "rgba.png": encoded(opaque, format="PNG"),
        "cmyk.jpg": encoded(picture.convert("CMYK"), format="JPEG", quality=95, subsampling=0),
    }
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    for orientation, turn in back.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        files[f"turned{orientation}.jpg"] = encoded(
            picture.transpose(turn), format="JPEG", quality=95, subsampling=0, exif=exif
        )
    grey = np.where(np.arange(32)[:, None] < 16, 255, 0).repeat(32, axis=1)
    files["grey.png"] = encoded(Image.fromarray(grey.astype(np.uint8)), format="PNG")
    files["grey16.png"] = encoded(Image.fromarray((grey * 257).astype(np.uint16)), format="PNG")
    files["bits.png"] = encoded(Image.fromarray(grey.astype(np.uint8)).convert("1"), format="PNG")
    return files, np.asarray(picture)


def test_files_of_every_kind_come_out_upright_in_colour(tmp_path):
    """Within 5 of 255: JPEG at quality 95."""
    files, picture = files_of_every_kind()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    source, skipped = FolderSource(tmp_path), SkippedFiles()
    ((indices, first, second),) = views_of(source, UNTOUCHED, skipped, batch=len(files), steps=1)
    assert skipped.count == 0
    for index, view, other in zip(indices, first, second, strict=True):
        name = source.item_name(index)
        expected = torch.from_numpy(picture.copy()).permute(2, 0, 1) / 255
        if name in ("grey.png", "grey16.png", "bits.png"):
            expected = expected[2:].expand(3, 32, 32)
        assert (view - expected).abs().max() < 5 / 255, name
        assert torch.equal(view, other)


def test_real_damage_is_passed_over(tmp_path, photos):
    """Empty, cut off, and no image at all, among files of differing sizes."""
    cut = next(photos.rglob("*.jpg")).read_bytes()
    bad = {"empty.jpg": b"", "cut.jpg": cut[: len(cut) // 2], "text.png": b"not an image"}
    for name, content in bad.items():
        (photos / name).write_bytes(content)
    skipped = SkippedFiles()
    source = FolderSource(photos)
    steps = views_of(source, V2, skipped, batch=9, steps=3)
    assert len(source) == 27
    assert [item for item, _ in skipped.items()] == sorted(bad)
    assert all(view.isfinite().all() for _, *pair in steps for view in pair)
