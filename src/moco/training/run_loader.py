"""The views of a run, step by step: its images, the recipe's or the user's views of them, the workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moco.config import Config
from moco.config_checks import check_own_views
from moco.data.base import Source
from moco.data.cache import GIB, keep_decoded
from moco.data.decode import DamagedImage
from moco.data.loader import MakeViews, ViewLoader
from moco.data.order import EpochOrder
from moco.data.recipe_views import RecipeViews, SmallViews
from moco.data.skipped import SkippedFiles
from moco.data.user_transform import Transform, TransformViews
from moco.data.views import ViewRecipe
from moco.data.workers import default_workers
from moco.sizes import Size, small_size
from moco.training.images import RunImages, check_windows
from moco.training.schedule import run_length

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class RunViews:
    """Makes the loaders of a run; decoded images that are kept are kept for all of them.

    Args:
        images, config: of the run.
        recipe: the configuration's views.
        transform: the user's own instead.
    """

    def __init__(
        self, images: RunImages, config: Config, recipe: ViewRecipe, transform: Transform | tuple[Any, Any] | None
    ) -> None:
        self._images, self._config, self._recipe, self._transform = images, config, recipe, transform
        self._kept: tuple[Source, str] | None = None
        if transform is not None:
            check_own_views(config)
            self._check_transform(transform)
        else:
            check_windows(images.source, config)

    @property
    def storage(self) -> str:
        """A line that says whether decoded images are kept; known once there is a loader."""
        assert self._kept is not None
        return self._kept[1]

    def loader(
        self,
        fabric: Fabric,
        skipped: SkippedFiles,
        *,
        indices: np.ndarray | None = None,
        batch_size: int | None = None,
        size: Size | None = None,
    ) -> tuple[ViewLoader, EpochOrder]:
        """Batches of views and their order; of other images, batches or views than the run's where they are given."""
        config, device = self._config, fabric.device
        order = EpochOrder(
            self._images.pretraining if indices is None else indices,
            batch_size=batch_size or config.batch_size,
            seed=config.seed,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
        views = 1 if config.mechanism == "memory-bank" else 2
        make: MakeViews
        if self._transform is not None:
            make = TransformViews(self._transform, seed=config.seed, views=views, size=config.image_size)
        else:
            sizes = config.sizes if size is None else size
            options: Any = {"device_type": device.type, "views": views, "small": self._small_views()}
            make = RecipeViews(self._recipe, sizes, order, **options)
            make.total_steps = run_length(config, order.steps_per_epoch)
        if self._kept is None:
            self._kept = keep_decoded(
                self._images.source,
                self._images.pretraining,
                budget=int(config.cache_gib * GIB),
                min_side=make.min_side,
            )
        workers = config.workers
        if workers is None:
            workers = max(1, default_workers() // config.devices)
        return ViewLoader(self._kept[0], order, make, device=device, skipped=skipped, workers=workers), order

    def _small_views(self) -> SmallViews | None:
        config = self._config
        if not config.small_views:
            return None
        return SmallViews(config.small_views, small_size(config.small_view_size, config.image_size), config.small_crop)

    def _check_transform(self, transform: Any) -> None:
        """Make the views of one image, the first that can be read."""
        source, seed = self._images.source, self._config.seed
        for index in self._images.pretraining:
            try:
                pixels = source.pixels(int(index))
            except DamagedImage:
                continue
            TransformViews(transform, seed=seed, size=self._config.image_size).pair(
                pixels, item=source.item_name(int(index)), seed=seed
            )
            return
