"""A cache for the features of the frozen vision tower, with which the tower processes each image only once per run.

Without the cache, the tower processes each image once per epoch.

The features are stored in a memory-mapped file on the disk to which the run writes. The file has no name and is deleted
when the process ends. Its pages belong to the operating system's page cache, so the memory use of the process does not
grow with the number of images. When a batch is collated, the features of its samples are copied into it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from eyechart.data.dataset import Dataset
from eyechart.progress import progress_bar
from eyechart.scoring.batching import collate
from eyechart.scoring.spool import Spool, free_bytes
from eyechart.seam import Reject, Sample
from qwen3_vlm.config import DataConfig
from qwen3_vlm.models.vlm import VLM

_ENCODE_BATCH = 64
_SHARE_OF_FREE = 0.5
"""Largest share of the free disk space for a cache if `data.cache_features` is auto. The rest is for checkpoints."""


class CachedDataset:
    """A data set whose samples contain features of the vision tower instead of pixels."""

    def __init__(self, dataset: Dataset, features_NPV: Tensor, hashes: list[str], rejects: dict[int, Reject]) -> None:
        """Wrap `dataset`.

        Features and image hashes are in the order of the positions in `dataset`. For each position without features,
        `rejects` contains the reason.
        """
        self.dataset, self.features_NPV, self.hashes, self.rejects = dataset, features_NPV, hashes, rejects
        self.lengths = dataset.lengths

    def __len__(self) -> int:
        """Return the number of positions, including those that were rejected."""
        return len(self.dataset)

    def __getitem__(self, position: int) -> Sample | Reject:
        """Return the sample at a position with its features, or the reason why the sample cannot be used."""
        if position in self.rejects:
            return self.rejects[position]
        features_PV = self.features_NPV[position]
        return replace(self.dataset.text(position), features_PV=features_PV, image_hash=self.hashes[position])


def wants_cache(config: DataConfig, vlm: VLM, images: int, folder: Path) -> bool:
    """Return whether the features of `images` images should be cached, according to `data.cache_features`.

    If the setting is `auto`, features are cached only if the cache is no larger than `data.cache_gb` and takes less
    than half of the free disk space of `folder`.
    """
    if config.cache_features == "auto":
        size = cache_gb(vlm, images)
        return size <= config.cache_gb and size * 1e9 < _SHARE_OF_FREE * free_bytes(folder)
    return config.cache_features == "on"


def cache_gb(vlm: VLM, images: int) -> float:
    """Return the size of a feature cache for this number of images, in gigabytes (1e9 bytes)."""
    value = next(vlm.tower.parameters()).element_size()
    return images * vlm.tower.patches * vlm.tower.width * value / 1e9


def cache_features(vlm: VLM, dataset: Dataset, label: str, folder: Path, hidden: bool = False) -> CachedDataset:
    """Run the vision tower once on every image of a data set, and cache the features.

    Args:
        vlm: the model; only its tower is used.
        dataset: the samples whose images are encoded.
        label: text shown on the progress bar.
        folder: the folder of the run. It need not exist yet, and the file of the cache is not visible in it.
        hidden: whether to hide the progress bar. It is hidden on all ranks except the first.

    Returns:
        The data set with features in the tower's dtype, on the CPU. It returns a `Reject` for an unreadable image.

    Raises:
        ValueError: the disk is full.
    """
    dtype = next(vlm.tower.parameters()).dtype
    spool = Spool(folder, "the features of data.cache_features")
    shape = (vlm.tower.patches, vlm.tower.width)
    hashes = [""] * len(dataset)
    rejects: dict[int, Reject] = {}
    with progress_bar(len(dataset), f"tower over {label} images", "image", hidden=hidden) as bar:
        for start, items in _read_ahead(dataset):
            rejects |= {p: item for p, item in items.items() if isinstance(item, Reject)}
            usable = {p: item for p, item in items.items() if isinstance(item, Sample)}
            features_BPV = torch.zeros(len(items), *shape, dtype=dtype)  # The features of a reject remain 0.
            if usable:
                batch = collate(list(usable.values()), pad_id=0)
                features_BPV[[p - start for p in usable]] = vlm.features(batch).cpu()
            spool.append(features_BPV)
            for position, sample in usable.items():
                hashes[position] = sample.image_hash
            bar.update(len(items))
    return CachedDataset(dataset, spool.tensor(dtype, len(dataset), *shape), hashes, rejects)


def _read_ahead(dataset: Dataset) -> Iterator[tuple[int, dict[int, Sample | Reject]]]:
    """Yield the items of the data set in batches: the first position of each batch, and its items by position.

    While the tower processes one batch, a second thread reads the next one.
    """

    def read(start: int) -> dict[int, Sample | Reject]:
        return {p: dataset[p] for p in range(start, min(start + _ENCODE_BATCH, len(dataset)))}

    starts = range(0, len(dataset), _ENCODE_BATCH)
    with ThreadPoolExecutor(1) as reader:
        ahead = [reader.submit(read, start) for start in starts[:1]]
        for start in starts:
            items = ahead.pop().result()
            if start != starts[-1]:
                ahead.append(reader.submit(read, start + _ENCODE_BATCH))
            yield start, items
