"""A cache for the frozen tower's features, so that the tower runs once per image instead of once per epoch.

The features are in a memory-mapped file without a name on the disk of the run. Its pages belong to the page cache, so
memory in use does not grow with the number of images. The features of a sample are copied into its batch.
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
"""Largest share of the free disk space that an automatic cache may take. The checkpoints need space, too."""


class CachedDataset:
    """A data set whose samples contain tower features instead of pixels."""

    def __init__(self, dataset: Dataset, features_NPV: Tensor, hashes: list[str], rejects: dict[int, Reject]) -> None:
        """Wrap `dataset`. Features and hashes are ordered by position; positions without features have rejects."""
        self.dataset, self.features_NPV, self.hashes, self.rejects = dataset, features_NPV, hashes, rejects
        self.lengths = dataset.lengths

    def __len__(self) -> int:
        """Return the number of positions, including rejected ones."""
        return len(self.dataset)

    def __getitem__(self, position: int) -> Sample | Reject:
        """Return the sample with its features, or the reason why there is none."""
        if position in self.rejects:
            return self.rejects[position]
        features_PV = self.features_NPV[position]
        return replace(self.dataset.text(position), features_PV=features_PV, image_hash=self.hashes[position])


def wants_cache(config: DataConfig, vlm: VLM, images: int, folder: Path) -> bool:
    """Whether to cache the features of this many images, according to `data.cache_features`.

    If the setting is `auto`, the cache must be within `data.cache_gb` and take at most half of the free disk space.
    """
    if config.cache_features == "auto":
        size = cache_gb(vlm, images)
        return size <= config.cache_gb and size * 1e9 < _SHARE_OF_FREE * free_bytes(folder)
    return config.cache_features == "on"


def cache_gb(vlm: VLM, images: int) -> float:
    """Return the size of a feature cache in gigabytes."""
    value = next(vlm.tower.parameters()).element_size()
    return images * vlm.tower.patches * vlm.tower.width * value / 1e9


def cache_features(vlm: VLM, dataset: Dataset, label: str, folder: Path, hidden: bool = False) -> CachedDataset:
    """Run the tower once over a data set and cache its features.

    Args:
        vlm: the model; only its tower is used.
        dataset: the samples to encode.
        label: text shown on the progress bar.
        folder: the folder of the run; it need not exist yet, and no file will be visible in it.
        hidden: whether to hide the progress bar (on all ranks other than the first).

    Returns:
        The data set with features in the tower's dtype, on the CPU. Unreadable images are kept as rejects.

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
            features_BPV = torch.zeros(len(items), *shape, dtype=dtype)  # the features of a reject stay zero
            if usable:
                batch = collate(list(usable.values()), pad_id=0)
                features_BPV[[p - start for p in usable]] = vlm.features(batch).cpu()
            spool.append(features_BPV)
            for position, sample in usable.items():
                hashes[position] = sample.image_hash
            bar.update(len(items))
    return CachedDataset(dataset, spool.tensor(dtype, len(dataset), *shape), hashes, rejects)


def _read_ahead(dataset: Dataset) -> Iterator[tuple[int, dict[int, Sample | Reject]]]:
    """Yield batches of items by position.

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
