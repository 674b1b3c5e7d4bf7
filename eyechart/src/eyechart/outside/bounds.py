"""How much is read of each kind of file. Every bound is far above real files and keeps memory below 1 GB on bad ones.

The only bound that real work may need to raise is that of data files: `EYECHART_MAX_DATA_GB=20` in the environment
allows data files of 20 GB, packed or not.
"""

from __future__ import annotations

import os

from eyechart.exits import InputError

CONFIG_BYTES = 2**16
"""Largest YAML file. The complete config has 4 kB; PyYAML parses about 100 kB per second, so this takes a second."""
YAML_NODES = 10_000
"""Most values of a YAML file, with every alias counted as what it repeats. The complete config has about 100."""
YAML_DEPTH = 32
"""Deepest nesting of a YAML file. The config has three levels."""
DIGITS = 100
"""Most digits of a number in YAML. The largest 64-bit integer has 19."""

JSON_BYTES = 2**26
"""Largest JSON file that is not data. A tokenizer.json has 10 to 35 MB, an index of weights 1 MB."""
RESULTS_BYTES = 2**26
"""Largest results.json. A run that scores 2,000 samples writes 4 MB."""
SPLIT_BYTES = 2**27
"""Largest split.json: about 10 million rows. LLaVA-Pretrain's 558,128 rows take 4 MB."""
LOG_BYTES = 2**27
"""Largest log of epochs or looks. A line has 300 bytes, so this is more than 400,000 lines."""
JSON_VALUES = 4_000_000
"""Most values (elements and keys) of such a file without its numbers: each takes 50 to 100 bytes in memory."""
SPLIT_VALUES = 10_000_000
"""Most values of split.json; they are integers, which take 40 bytes each."""

DATA_BYTES = 8 * 2**30
"""Largest JSON or CSV data file after unpacking. LLaVA-Pretrain's has 190 MB, LLaVA-665k's 1 GB."""
DATA_GB_VARIABLE = "EYECHART_MAX_DATA_GB"
"""Environment variable that replaces `DATA_BYTES`."""
CHECKED_BYTES = 2**24
"""Data files above this size are checked for rows of usual size before they are split. Below it, memory is no risk."""
ROW_BYTES = 8
"""Fewest bytes per `{` in a large data file. The shortest row, an image and a text under keys of one letter, has 20."""
VALUES_PER_ROW = 100_000
"""Most commas per `{` in a large data file. Pre-tokenised rows have a few thousand numbers each."""
SNIFFED_BYTES = 2**20
"""Beginning of a data file that is examined before the rest is read."""
JSON_DEPTH = 200
"""Deepest nesting at the beginning of a data file. A row has three to six levels."""

EXPANSION = 100
"""A packed file may unpack to this many times its size. JSON texts reach 5 to 30, tar archives of images 1."""
EXPANSION_FREE = 2**26
"""Bytes that any packed file may unpack to, so that small files of equal rows are not refused."""

TABLE_BYTES = 700_000_000
"""Largest table in memory: all columns of a Parquet or Arrow file but images, about 3 million rows of 200 bytes.
`DATA_GB_VARIABLE` replaces it, too."""
HEADER_BYTES = 2**25
"""Largest part of an archive that is read at once. Texts of samples have at most half of it, headers a few kB."""
IMAGE_BYTES = 2**30
"""Largest image file. `data.max_pixels` pixels of the default limit have 0.5 GB without compression."""
CHECKPOINT_EXPANSION = 2
"""A checkpoint may unpack to this many times its size. PyTorch stores tensors without compression."""


def data_bytes() -> int:
    """Return the largest size of a data file after unpacking: `DATA_BYTES`, or what the environment says.

    Raises:
        InputError: the environment variable is not a positive number.
    """
    return _settable(DATA_BYTES)


def table_bytes() -> int:
    """Return the largest size of a table in memory: `TABLE_BYTES`, or what the environment says.

    Raises:
        InputError: the environment variable is not a positive number.
    """
    return _settable(TABLE_BYTES)


def _settable(default: int) -> int:
    given = os.environ.get(DATA_GB_VARIABLE, "").strip()
    if not given:
        return default
    try:
        gigabytes = float(given)
    except ValueError:
        gigabytes = 0.0
    if not 0 < gigabytes < 1e9:
        raise InputError(
            f"{DATA_GB_VARIABLE}: expected a number of gigabytes above 0, got {given[:40]!r}",
            "set it to 20, or unset it",
        )
    return int(gigabytes * 1e9)
