"""The frozen tower's features kept in a mapped file: it runs once per image instead of once per epoch.

The file has no name and is on the disk of the run; its pages belong to the page cache, so that memory in use does not
grow with the number of images. The features of a sample are copied into its batch.
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
"""Share of the free space that an automatic cache may take, because the checkpoints still have to be written."""


class CachedDataset:
    """A data set whose samples carry tower features instead of pixels."""

    def __init__(self, dataset: Dataset, features_NPV: Tensor, hashes: list[str], rejects: dict[int, Reject]) -> None:
        """Wrap `dataset`; features and hashes by position, rejects for the positions that have none."""
        self.dataset, self.features_NPV, self.hashes, self.rejects = dataset, features_NPV, hashes, rejects
        self.lengths = dataset.lengths

    def __len__(self) -> int:
        """Number of positions, including rejected ones."""
        return len(self.dataset)

    def __getitem__(self, position: int) -> Sample | Reject:
        """The sample with its features, or why there is none."""
        if position in self.rejects:
            return self.rejects[position]
        features_PV = self.features_NPV[position]
        return replace(self.dataset.text(position), features_PV=features_PV, image_hash=self.hashes[position])


def wants_cache(config: DataConfig, vlm: VLM, images: int, folder: Path) -> bool:
    """Whether `data.cache_features` asks for a cache of this many images, and if it is `auto`, there is room for it."""
    if config.cache_features == "auto":
        size = cache_gb(vlm, images)
        return size <= config.cache_gb and size * 1e9 < _SHARE_OF_FREE * free_bytes(folder)
    return config.cache_features == "on"


def cache_gb(vlm: VLM, images: int) -> float:
    """Size of a feature cache in gigabytes."""
    value = next(vlm.tower.parameters()).element_size()
    return images * vlm.tower.patches * vlm.tower.width * value / 1e9


def cache_features(vlm: VLM, dataset: Dataset, label: str, folder: Path, hidden: bool = False) -> CachedDataset:
    """Run the tower once over a data set.

    Args:
        vlm: the model; only its tower is used.
        dataset: what to encode.
        label: shown on the progress bar.
        folder: of the run; it need not exist yet, and no file will be visible in it.
        hidden: show no bar (ranks other than the first).

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
            features_BPV = torch.zeros(len(items), *shape, dtype=dtype)  # the place of a reject stays empty
            if usable:
                batch = collate(list(usable.values()), pad_id=0)
                features_BPV[[p - start for p in usable]] = vlm.features(batch).cpu()
            spool.append(features_BPV)
            for position, sample in usable.items():
                hashes[position] = sample.image_hash
            bar.update(len(items))
    return CachedDataset(dataset, spool.tensor(dtype, len(dataset), *shape), hashes, rejects)


def _read_ahead(dataset: Dataset) -> Iterator[tuple[int, dict[int, Sample | Reject]]]:
    """Batches of items by position; the next one is read in a second thread while the tower works on this one."""

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
