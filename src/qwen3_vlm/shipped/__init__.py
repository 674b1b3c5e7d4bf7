"""The files that are installed with the package: `configs/*.yaml` and the tiny backbones in `assets/tiny`.

In the source repository, `configs` and `assets` in the root folder are links to these two folders. The same relative
paths also work in any other working directory: if a file does not exist there, the copy in this package is used.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent
_FOLDERS = ("configs", "assets")


def locate(name: str) -> str:
    """Return the path of a config or backbone: `name` if that path exists, otherwise the path of its packaged copy.

    If there is no packaged copy either, the function returns `name` unchanged.

    Args:
        name: a file or folder, or the name of a model on the Hugging Face Hub.

    Returns:
        The path or the name to load. Error messages should show the argument `name`, because the user wrote that.
    """
    path = Path(name)
    if path.exists() or path.is_absolute() or path.parts[:1] not in [(folder,) for folder in _FOLDERS]:
        return name
    packaged = _HERE / path
    return str(packaged) if packaged.exists() and ".." not in path.parts else name
