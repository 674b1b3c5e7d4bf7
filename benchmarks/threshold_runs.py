"""Short healthy runs in three worlds, and the statistics of each that a threshold of a detector cuts.

The worlds: scenes and digits, which come with the package, and `columns`, drawn here: one to four columns of one colour
on a light ground, the number and the colour in the caption. The language model knows the colours, but not this wording,
so these runs begin at a high loss.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from eyechart.data.choice import even_choice
from eyechart.faults.pattern_of_tokens import Untrained
from eyechart.faults.probes import probe
from eyechart.faults.slots import measure_slots
from eyechart.faults.weights import distance, flatten
from eyechart.results import Internals
from eyechart.scoring.batching import collate
from eyechart.scoring.internals import OUTPUT, TOWER
from fault_site import short_config
from qwen3_vlm.build import Prepared
from qwen3_vlm.commands.loaded import Loaded, open_with_data
from qwen3_vlm.commands.recorder import Recorder, fresh_reference, look_inside
from qwen3_vlm.config import Config
from qwen3_vlm.models.connector import fresh_connector
from qwen3_vlm.preflight import preflight
from qwen3_vlm.train.checkpoint import connector_state
from qwen3_vlm.train.stage1 import train
from qwen3_vlm.train.untrained import fresh_rivals

WORLDS = ("scenes", "digits", "columns")
SHAPES: dict[str, list[str]] = {
    "default": [],
    "free-scale": ["--connector.output_norm", "false", "--connector.key_positions", "false"],
    "one-latent": ["--connector.latents", "1", "--connector.depth", "1"],
    "thirty-two": ["--connector.latents", "32", "--data.max_seq_len", "128", "--connector.vision_ln", "true"],
}
UNTRAINED_SEEDS = range(100, 108)
_ROWS, _HELD_OUT, _SCORED = 640, 64, 64
_COLOURS = {"red": (214, 40, 40), "green": (46, 150, 62), "blue": (42, 78, 204), "yellow": (240, 212, 40)}
_NUMBERS = ("one", "two", "three", "four")

Values = dict[str, float]


def columns(folder: Path) -> list[str]:
    """Draw the third world into a folder; return the config overrides that use it."""
    chance, rows = random.Random(7), []
    for i in range(_ROWS):
        number, colour, light = chance.randint(1, 4), chance.choice(list(_COLOURS)), chance.randint(215, 250)
        image = Image.new("RGB", (96, 96), (light, light, light))
        pen = ImageDraw.Draw(image)
        for place in range(number):
            left = 6 + 23 * place + chance.randint(-3, 3)
            pen.rectangle((left, chance.randint(8, 40), left + 13, 90), fill=_COLOURS[colour], outline=(20, 20, 20))
        path = folder / f"{i:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        turns = [
            ("human", "<image>\nDescribe the picture."),
            ("gpt", f"{_NUMBERS[number - 1]} {colour} squares on white"),
        ]
        conversations = [{"from": who, "value": said} for who, said in turns]
        rows.append({"id": path.stem, "image": path.name, "conversations": conversations})
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return [
        *("--data.json_file", str(folder / "rows.json"), "--data.image_root", str(folder), "--data.world", "none"),
        *("--data.max_samples", "null"),
    ]


def config_of(world: str, shape: str, folder: Path) -> Config:
    """The config of one run, in its own folder."""
    own = columns(folder / "images") if world == "columns" else ["--data.max_samples", str(_ROWS)]
    ratio = [] if world == "digits" else ["--data.eval_ratio", str(_HELD_OUT / _ROWS)]
    return short_config("digits" if world == "digits" else "scenes", folder / "run", [*own, *ratio, *SHAPES[shape]])


def run(world: str, shape: str, folder: Path) -> Iterator[Values]:
    """Train one run and yield its statistics by constant."""
    config = config_of(world, shape, folder)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        loaded, prepared = open_with_data(train(config, overwrite=True))
        yield from of_checkpoint(loaded, prepared)
        if shape == "default":
            yield from of_data(loaded, prepared)
            yield from of_untrained(loaded, prepared)


def of_checkpoint(loaded: Loaded, prepared: Prepared) -> Iterator[Values]:
    """The figures of a trained connector against a fresh one, of its slots, its weights and its paths."""
    vlm, pad = loaded.vlm, loaded.inputs.pad_id
    batch = collate([prepared.eval[p] for p in range(min(_SCORED, len(prepared.eval)))], pad)
    recorder = Recorder(vlm)
    recorder.encode(batch)
    seen, fresh = look_inside(recorder.inside, vlm), fresh_reference(vlm, batch, loaded.config.seed)
    assert seen is not None and fresh is not None
    yield from _stages(seen, fresh)
    few = collate([prepared.eval[p] for p in range(32)], pad)
    slots = measure_slots(vlm, few, seen.rms_ratio)
    if slots is not None and slots.whole > 0:
        worth = [len(slots.groups) * max(pair) / slots.whole for pair in zip(slots.without, slots.alone, strict=True)]
        yield {"_DEAD": sorted(worth)[len(worth) // 2]}
        yield {"_HELPS": -(slots.rescaled or 0.0)}
    probes = probe(vlm, few)
    yield {"NEIGHBOURS": probes.tokens.alone, "RESTLESS": max(probes.tokens.repeated, probes.images.repeated)}
    yield {"_COPIED": float(vlm.nll(few, vlm.encode(few)).nll_N.mean()), "_ANSWERS": probes.answers_in_prompt}
    yield from _weights(loaded)


def _stages(seen: Internals, fresh: Untrained) -> Iterator[Values]:
    shares, before = seen.variance_share, fresh.internals.variance_share
    for stage in shares.keys() & before.keys() - {TOWER}:
        yield {"OF_FRESH": shares[stage] / before[stage]}
    if OUTPUT in shares:
        yield {"_LOST": shares[OUTPUT] / shares["resampler"]}
    yield {"_LOST": seen.image_share[OUTPUT] / seen.image_share["resampler"]}
    yield {"_ALIKE": shares[TOWER], "ROUNDING": min(seen.image_share.values())}
    reference = 1.0 if fresh.scaled else fresh.internals.rms_ratio
    yield {"SCALE": max(seen.rms_ratio / max(1.0, reference), min(1.0, reference) / seen.rms_ratio)}
    if seen.effective_rank_of > 1:
        yield {"_ONE_DIRECTION": seen.effective_rank}


def _weights(loaded: Loaded) -> Iterator[Values]:
    connector = loaded.vlm.connector
    fresh = fresh_connector(connector.shape, loaded.config.seed, connector.text_rms)
    start, now = flatten(connector_state(fresh)), flatten(connector_state(connector))
    far = {name: distance(now[name].cpu(), value) for name, value in start.items()}
    yield {"MOVED": max(far.values())}
    yield {"STILL": min(far.values())}
    cosines: dict[str, float] = {}
    for name, value in start.items():
        if value.numel() >= 256 and float(value.std()) > 0:
            cosine = torch.nn.functional.cosine_similarity(now[name].cpu().flatten(), value.flatten(), dim=0)
            cosines[name.split(".")[0]] = max(cosines.get(name.split(".")[0], -1.0), float(cosine))
    yield from ({"_RELATED": cosine} for cosine in cosines.values())


def of_data(loaded: Loaded, prepared: Prepared) -> Iterator[Values]:
    """What the preflight measures on rows: association of captions and pictures, repeats, words."""
    pairing = preflight(prepared, loaded.vlm).pairing
    assert pairing is not None
    for side in (pairing.train, pairing.held_out):
        if side is not None and side.z is not None:
            yield {"NONE": side.z}
            yield from ({"NONE (a quarter of the file)": part.z} for part in side.parts if part.z is not None)
    captions = [[prepared.train.text(p).caption for p in even_choice(len(prepared.train), 500)]]
    captions.append([prepared.eval.text(p).caption for p in range(len(prepared.eval))])
    counts = Counter(captions[0])
    heard, words = ({w for text in texts for w in text.lower().split()} for texts in captions)
    yield {"_TOP_SHARE": counts.most_common(1)[0][1] / len(captions[0]), "_FEWEST": len(counts)}
    yield {"_UNHEARD": len(words - heard) / len(words)}


def of_untrained(loaded: Loaded, prepared: Prepared) -> Iterator[Values]:
    """Untrained connectors in place of the trained one: whether they beat other untrained ones."""
    vlm, kept = loaded.vlm, loaded.vlm.connector
    batch = collate([prepared.eval[p] for p in range(min(_SCORED, len(prepared.eval)))], loaded.inputs.pad_id)
    for seed in UNTRAINED_SEEDS:
        vlm.connector = fresh_connector(kept.shape, seed, kept.text_rms).eval()
        rivals = fresh_rivals(vlm, batch, 10 * seed)
        if rivals is not None:
            yield {"beats_fresh": float(rivals.beats_fresh)}
    vlm.connector = kept
