"""The files that come with the package: `configs/*.yaml` and the tiny backbones `assets/tiny`.

In a source tree `configs` and `assets` at its root are links to these two folders. Anywhere else the same relative
paths work too: what is not in the working directory is taken from here.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent
_FOLDERS = ("configs", "assets")


def locate(name: str) -> str:
    """Where a config or backbone is: `name` as given if that exists, else its packaged copy, else `name` unchanged.

    Args:
        name: a file or folder, or the name of a model on the hub.

    Returns:
        A path or name to open; an error message should say `name`, which is what the user wrote.
    """
    path = Path(name)
    if path.exists() or path.is_absolute() or path.parts[:1] not in [(folder,) for folder in _FOLDERS]:
        return name
    packaged = _HERE / path
    return str(packaged) if packaged.exists() and ".." not in path.parts else name
