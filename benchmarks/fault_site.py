"""The working folder of one case of the fault benchmark: its config, copies of the files it changes, and its patches.

Nothing outside the case's own folder is ever written: data, images, backbones and checkpoints are copied there first.
"""

from __future__ import annotations

import functools
import json
import pkgutil
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from inspect import getattr_static
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from eyechart.files import write_atomic
from qwen3_vlm.config import Config, load_config
from qwen3_vlm.demo.worlds import ensure

Row = dict[str, Any]
World = Literal["scenes", "digits"]
Where = Literal["training", "evaluation", "both", "resume"]

TRAINED, HELD_OUT = 1200, 100
SAVE_EVERY, INSIDE_EPOCH = 152, 456
"""Number of steps between checkpoints of healthy runs, and the step from which runs are resumed. An epoch has 300."""
_CONFIGS = {"scenes": Path("configs/stage1_align_tiny.yaml"), "digits": Path("configs/stage1_align_digits.yaml")}
_SIZE = TRAINED + HELD_OUT
_SHORT = {
    "scenes": ["--data.max_samples", str(_SIZE), "--data.eval_ratio", str(HELD_OUT / _SIZE), "--train.epochs", "2"],
    "digits": ["--data.max_samples", str(TRAINED), "--train.epochs", "2"],
}
_ALWAYS = ["--threads", "1", "--train.tracker", "none", "--ablation.num_samples", str(HELD_OUT)]


@dataclass
class Site:
    """The folder and settings of one case while it is set up."""

    folder: Path
    """Folder of only this case."""
    world: World
    base: Path
    """Folder of a healthy run on this world; read only."""
    overrides: list[str] = field(default_factory=list)
    checkpoint: Path | None = None
    """The checkpoint to evaluate, for cases that do not train."""
    alone: bool = False
    """Whether a checkpoint is evaluated in an empty folder, without the other files of its run."""

    @property
    def run(self) -> Path:
        """The run's output_dir."""
        return self.folder / "run"

    def set(self, **values: object) -> None:
        """Override config fields: `set(train__lr=1)` is `--train.lr 1`."""
        for name, value in values.items():
            self.overrides += [f"--{name.replace('__', '.')}", json.dumps(value)]

    def config(self) -> Config:
        """Return the config of the case's run."""
        return short_config(self.world, self.run, self.overrides)

    @functools.cached_property
    def rows(self) -> list[Row]:
        """Return a copy of the rows of this world's short run, which can be changed and passed to `write_rows`."""
        config = self.config()
        rows: list[Row] = json.loads(Path(config.data.json_file).read_text(encoding="utf-8"))
        return rows[:_SIZE] if self.world == "scenes" else rows[:TRAINED]

    @functools.cached_property
    def held_out_rows(self) -> list[Row] | None:
        """Return a copy of the rows of the fixed held-out file; None if the split is drawn."""
        held_out = self.config().data.eval_json
        return json.loads(Path(held_out).read_text(encoding="utf-8")) if held_out else None

    def write_rows(self, rows: list[Row], held_out: list[Row] | None = None) -> None:
        """Train on `rows` instead, and use `held_out` as held-out rows if given."""
        write_atomic(self.folder / "data.json", json.dumps(rows))
        self.set(data__json_file=str(self.folder / "data.json"), data__max_samples=None)
        if held_out is not None:
            write_atomic(self.folder / "held_out.json", json.dumps(held_out))
            self.set(data__eval_json=str(self.folder / "held_out.json"))

    def own_images(self) -> Path:
        """Give the case its own image folder, which contains links, so that some images can be replaced."""
        source, root = Path(self.config().data.image_root).resolve(), self.folder / "images"
        for row in (*self.rows, *(self.held_out_rows or ())):
            link = root / row["image"]
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source / row["image"])
        self.write_rows(self.rows, self.held_out_rows)
        self.set(data__image_root=str(root), data__world="none")
        return root

    def own_backbone(self, part: Literal["vision", "llm"]) -> Path:
        """Copy a backbone's folder, and use the copy instead of the original."""
        copy = self.folder / part
        shutil.copytree(getattr(self.config().model, part), copy)
        self.set(**{f"model__{part}": str(copy)})
        return copy

    def take_base(self, step: int | None = None) -> Path:
        """Copy the healthy run up to `step` (by default all of it) to this case, and return its newest checkpoint."""
        self.run.mkdir(parents=True)
        found = sorted(self.base.glob("checkpoint_*.pt"), key=lambda p: int(p.stem.split("_")[1]))
        wanted = found[-1] if step is None else next(p for p in found if p.stem == f"checkpoint_{step}")
        beside = () if self.alone else ("split.json", "log.jsonl", "config.yaml")
        for path in (wanted, *(self.base / name for name in beside)):
            if path.is_file():
                shutil.copy(path, self.run / path.name)
        self.checkpoint = self.run / wanted.name
        return self.checkpoint


def human_turns(site: Site) -> None:
    """Use a template with text around the image, for faults that need such text."""
    site.set(prompt__template="{human}\n")


def take_base(site: Site) -> None:
    """Evaluate the healthy run."""
    site.take_base()


def checkpoint_alone(site: Site) -> None:
    """Evaluate the healthy run's `.pt`, without the other files of its folder."""
    site.take_base()
    for name in ("split.json", "log.jsonl", "config.yaml"):
        (site.run / name).unlink(missing_ok=True)


def short_config(world: World, output_dir: Path, overrides: list[str]) -> Config:
    """Return a world's shipped config, shortened, with this `output_dir`."""
    return load_config(_CONFIGS[world], ["--output_dir", str(output_dir), *_ALWAYS, *_SHORT[world], *overrides])


def make_worlds() -> None:
    """Draw both worlds if they do not exist yet."""
    for world in _CONFIGS:
        config = load_config(_CONFIGS[world])
        assert config.data.world != "none"
        ensure(config.data.world, Path(config.data.image_root))


Change = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Case:
    """One set-up, with a fault or healthy."""

    name: str
    code: str
    """The injected fault's code in `faults.table.FAULTS`; empty for healthy set-ups."""
    how: str
    """The change in one line."""
    where: Where = "both"
    """When the change is applied: in training, in the evaluation of a healthy run, in both, or in a resumed run."""
    set_up: Callable[[Site], object] = lambda site: None
    """Changes data, config or files of the site."""
    change: Change = nullcontext
    """Patches one function."""
    world: World = "scenes"
    also: tuple[str, ...] = ()
    """Other codes that the same change also injects, and that are as correct as `code`."""


def edit_tensors(path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a safetensors file in place; `edit` works on the dictionary."""
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_json(path: Path, edit: Callable[[Any], object]) -> None:
    """Change a JSON file in place; `edit` works on the decoded value."""
    tree = json.loads(path.read_text(encoding="utf-8"))
    edit(tree)
    path.write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")


def edit_checkpoint(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change a checkpoint in place; `edit` works on the payload."""
    payload = torch.load(path, map_location="cpu", weights_only=True)
    edit(payload)
    torch.save(payload, path)


def replace_image(path: Path, image: Image.Image, **options: Any) -> None:
    """Replace a link made by `own_images` by another picture; the linked file is not changed."""
    path.unlink()
    image.save(path, **options)


def swap(dotted: str, make: Callable[[Any], Any]) -> Change:
    """A change of one function: `swap("package.module.function", lambda original: replacement)`.

    Like a change of the source, it affects every module of the package that has imported the function by name.
    Methods and properties are named through their class.
    """

    @contextmanager
    def changed() -> Iterator[None]:
        parent, name = dotted.rsplit(".", 1)
        owner = pkgutil.resolve_name(parent)
        original = getattr_static(owner, name)
        replacement = make(original)
        setattr(owner, name, replacement)
        _rebind(name, original, replacement)
        try:
            yield
        finally:
            setattr(owner, name, original)
            _rebind(name, replacement, original)

    return changed


def _rebind(name: str, old: object, new: object) -> None:
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith(("qwen3_vlm", "eyechart")) and vars(module).get(name) is old:
            setattr(module, name, new)
