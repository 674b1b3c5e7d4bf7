"""The output folder of a run as a transaction: one writer, a manifest of what runs wrote, results that appear at once.

    with writing(folder, RESULTS) as opened:
        opened.require_ours()
        with opened.together("results") as draft:
            ...  # write files into the folder `draft`

`run.json` is the manifest: the id of the run, and for each file that a run wrote a mark of its content. Within the
block, `files.atomic` replaces and `files.remove` removes only files that the manifest lists and that have not changed
since; all others are a user's. The manifest is written before a file takes its place, and lists the old and the new
content, so that after a kill at any moment it still lists whichever is there.
"""

from __future__ import annotations

import copy
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from eyechart.files import DRAFT, refuse_special, set_guard, sweep
from eyechart.lock import LOCK, locked
from eyechart.manifest import ANY, FORM, MANIFEST, Manifest, Moving, mark_of, read_manifest, write_manifest
from eyechart.printing import err
from eyechart.signals import draft_folder, finished

RESULTS = "results"
"""Name of the group of files that a measurement writes."""
_OURS = re.compile(f"{re.escape(MANIFEST)}|{RESULTS}")
_OPEN: dict[Path, RunFolder] = {}
os.register_at_fork(after_in_child=_OPEN.clear)


@dataclass(frozen=True)
class Kinds:
    """The files that a command writes to its folder."""

    names: re.Pattern[str]
    """Their names in the folder; a whole name has to match."""
    recognise: Callable[[Path], bool]
    """Whether a file is what an earlier version without a manifest wrote under that name, judged by its content."""


@contextmanager
def writing(folder: Path, kinds: Kinds) -> Iterator[RunFolder]:
    """Hold the lock of a folder, sweep what killed processes left, and guard its files. Blocks may be nested.

    A folder that does not exist is made, and removed again at the end if nothing was written.

    Raises:
        LockedError: another process writes to the folder; the message names it.
        ValueError: its run.json is not a manifest, or a file prevents results from being completed.
    """
    with locked(folder / LOCK, f"the folder {folder}"):
        key = folder.resolve()
        if (opened := _OPEN.get(key)) is not None:
            if kinds not in opened.kinds:
                opened.kinds.append(kinds)
            yield opened
            return
        opened = RunFolder(folder, [kinds])
        for names in (kinds.names, _OURS):
            sweep(folder, names)
        _OPEN[key] = opened
        set_guard(folder, opened)
        try:
            yield opened
        finally:
            set_guard(folder, None)
            del _OPEN[key]


class RunFolder:
    """A folder that this process writes to; made by `writing`."""

    def __init__(self, folder: Path, kinds: list[Kinds]) -> None:
        """Read the manifest, and complete results that a killed process had begun to put in their places."""
        self.folder, self.kinds = folder, kinds
        found = read_manifest(folder)
        self._new = found is None
        self._manifest = found or Manifest(FORM, earlier=sorted(p.name for p in folder.iterdir() if p.name[:1] != "."))
        if self._manifest.moving is not None:
            self._arrive(self._manifest.moving)

    @property
    def run(self) -> str | None:
        """Id of the run whose files are in the folder."""
        return self._manifest.run

    def start(self, run: str) -> None:
        """Record the id of the run that writes from now on."""
        if run != self._manifest.run:
            self._manifest.run = run
            self._save()

    def is_ours(self, path: Path) -> bool:
        """Whether a file was written by a run and has not been changed by anything else since."""
        name = self._name(path)
        if path.is_symlink() or not path.is_file():
            return False
        marks = self._manifest.files.get(name)
        if marks is not None:
            return ANY in marks or mark_of(path) in marks
        top = name.partition("/")[0]
        return top in self._manifest.earlier and any(k.names.fullmatch(name) and k.recognise(path) for k in self.kinds)

    def require_ours(self) -> None:
        """Refuse to continue if a file that this run will write or delete is not a run's.

        Raises:
            ValueError: there is such a file.
        """
        found = self.found()
        for path in found:
            self._require(path)
        if self._new and found:
            names = ", ".join(path.name for path in found[:6]) + (", ..." if len(found) > 6 else "")
            err(
                f"note: {self.folder} has no {MANIFEST}, so it is of an earlier version; its files were recognised by "
                f"what they contain: {names}"
            )

    def found(self) -> list[Path]:
        """Return what is there under the names that this run writes, whoever wrote it."""
        names = (path for path in sorted(self.folder.iterdir()) if path.name[:1] != ".")
        return [path for path in names if any(kinds.names.fullmatch(path.name) for kinds in self.kinds)]

    def replacing(self, path: Path, draft: Path) -> None:
        """Record the content that is about to replace `path`.

        Raises:
            ValueError: `path` is not a run's.
        """
        name = self._name(path)
        if name == MANIFEST or name.startswith("."):
            return
        self._expect(path, draft)
        self._save(name)

    def removing(self, path: Path) -> bool:
        """Whether `path` may be removed. It stays in the manifest until the next change."""
        return self.is_ours(path)

    def register(self, paths: Iterable[Path]) -> None:
        """List files that a library has written for this run, and will change."""
        self._manifest.files |= {self._name(path): [ANY] for path in paths}
        self._save()

    def delete_all(self) -> None:
        """Delete every file that is a run's, results before all others, and folders that are left empty."""
        results = self._manifest.groups.get(RESULTS, [])
        listed = {*self.found(), *(self.folder / name for name in self._manifest.files)}
        # Decided for all before any is deleted: some files of earlier versions are recognised by what is beside them.
        ours = [path for path in listed if self.is_ours(path)]
        for path in sorted(ours, key=lambda path: (path.name not in results, path)):
            path.unlink()
            for parent in path.relative_to(self.folder).parents[:-1]:
                with suppress(OSError):  # not empty
                    (self.folder / parent).rmdir()
        self._manifest.groups = {}
        self._save()

    @contextmanager
    def together(self, group: str) -> Iterator[Path]:
        """Yield a hidden folder. At the end of the block its files replace all files of the group, or none.

        Raises:
            ValueError: a file of the same name is not a run's; nothing is changed.
        """
        draft = draft_folder(self.folder, f".{group}-", DRAFT)
        manifest = copy.deepcopy(self._manifest)
        try:
            yield draft
            names = sorted(path.relative_to(draft).as_posix() for path in draft.rglob("*") if path.is_file())
            before = self._manifest.groups.get(group, [])
            for name in names:
                self._expect(self.folder / name, draft / name)
            leaving = [name for name in before if name not in names]
            self._manifest.groups[group] = names
            self._manifest.moving = Moving(draft.name, names, leaving)
            self._save(*names)  # from here on, the results will arrive, even after a kill
        except BaseException:
            self._manifest = manifest
            shutil.rmtree(draft, ignore_errors=True)
            raise
        finally:
            finished(draft)  # complete: a command that is stopped from here on must not remove it
        self._arrive(self._manifest.moving)

    def _arrive(self, moving: Moving) -> None:
        """Move files to their places. After a kill, the next writer moves those that have not arrived."""
        draft = self.folder / moving.draft
        for name in moving.names:
            if (draft / name).is_file():
                self._require(self.folder / name)
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (draft / name).replace(self.folder / name)
        # If the draft is gone, the new files were discarded before any of them was moved.
        for name in moving.leaving if draft.is_dir() else ():
            if self.is_ours(self.folder / name):
                (self.folder / name).unlink()
        self._manifest.moving = None
        self._save()
        shutil.rmtree(draft, ignore_errors=True)

    def _expect(self, path: Path, draft: Path) -> None:
        """Let the manifest list the content of `draft`, and the one that is there, under the name of `path`."""
        self._require(path)
        there = [mark_of(path)] if path.is_file() else []
        self._manifest.files[self._name(path)] = [mark_of(draft), *there]

    def _require(self, path: Path) -> None:
        refuse_special(path)
        if path.exists() and not self.is_ours(path):
            listed = self._name(path) in self._manifest.files
            state = "was changed after a run wrote it" if listed else "was not written by a run"
            raise ValueError(
                f"{path} {state}, so it is neither replaced nor deleted; move it away, or choose another folder"
            )

    def _name(self, path: Path) -> str:
        return (path.parent.resolve() / path.name).relative_to(self.folder.resolve()).as_posix()

    def _save(self, *coming: str) -> None:
        """Write the manifest; files that are neither there nor coming are left out."""
        listed, earlier = self._manifest.files, self._manifest.earlier
        self._manifest.files = {n: marks for n, marks in listed.items() if n in coming or (self.folder / n).is_file()}
        self._manifest.earlier = [name for name in earlier if (self.folder / name).exists()]
        self._new = False
        write_manifest(self.folder, self._manifest)
