"""The files that come with the package: `configs/*.yaml` and the tiny backbones `assets/tiny`.

In a source tree, `configs` and `assets` at its root are links to these two folders. The same relative paths also work
in any other working directory: a file that is not there is taken from this package.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent
_FOLDERS = ("configs", "assets")


def locate(name: str) -> str:
    """Find a config or backbone: `name` itself if it exists, otherwise its packaged copy, otherwise `name` unchanged.

    Args:
        name: a file or folder, or the name of a model on the hub.

    Returns:
        A path or name to open. Error messages should show `name`, because that is what the user wrote.
    """
    path = Path(name)
    if path.exists() or path.is_absolute() or path.parts[:1] not in [(folder,) for folder in _FOLDERS]:
        return name
    packaged = _HERE / path
    return str(packaged) if packaged.exists() and ".." not in path.parts else name
