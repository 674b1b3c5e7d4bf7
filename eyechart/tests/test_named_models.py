"""Any image-text-to-text model behind the scoring seam: seven architectures at tiny width, loaded as real ones are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from eyechart.models.rows import OTHER_TOKENS, ForeignRows, first_samples, read_rows
from PIL import Image

from eyechart.api.score import ablate_model, foreign_config
from eyechart.faults.probes import diagnose_probes, probe
from eyechart.models.loading import Foreign, load_foreign
from eyechart.models.selftests import refuse_unfit
from eyechart.models.writing import write_captions
from eyechart.reporting.runbook import render_runbook
from eyechart.scoring.batching import collate
from eyechart.seam import IGNORE_INDEX, Batch, Reject, VisualTokens
from qwen3_vlm.cli import main
from tiny_architectures import ARCHITECTURES
from tiny_rows import llava_row

ROWS = 12
CPU = ["--threads", "1", "--model.device", "cpu", "--ablation.derangements", "1", "--ablation.gallery", "0"]
CONFIG = foreign_config(CPU)
NOT_TRAINED = ("under-trained", "picture-harmful", "constant-prompt")
"""What the pattern of check 1 can look like on random weights."""
CAPTIONS = ["a red circle on a blue ground", "a green cross", "a yellow square and <|im_end|> a word", "blue"]


def missing_part(name: str) -> str:
    """Why a real model of this kind could not be loaded here either."""
    image_processor = getattr(
        transformers, {"idefics3": "Idefics3", "smolvlm": "SmolVLM"}.get(name, "CLIP") + "ImageProcessorPil"
    )
    if getattr(image_processor, "is_dummy", False):
        return f"transformers {transformers.__version__} has no image processor for it without torchvision"
    return ""


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data.json` and its images of two sizes."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "images").mkdir()
    humans = ("Describe the picture.\n<image>", "<image>\nWhat is this?")
    rows = [llava_row(r, caption=f"{CAPTIONS[r % 4]} {r}", human=humans[r % 2]) for r in range(ROWS)]
    for row in rows:
        noise_HWC = np.random.default_rng(int(row["id"])).integers(
            0, 256, (36, 30 + int(row["id"]) % 2, 3), dtype=np.uint8
        )
        Image.fromarray(noise_HWC).save(folder / row["image"])
    (folder / "data.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


class Saved:
    """Checkpoints on disk, each made once."""

    def __init__(self, root: Path) -> None:
        self.root, self.loaded = root, dict[str, Foreign]()

    def folder(self, name: str) -> Path:
        reason = missing_part(name)
        if reason:
            pytest.skip(reason)
        if not (self.root / name).is_dir():
            (self.root / name).mkdir()
            ARCHITECTURES[name](self.root / name)
        return self.root / name

    def load(self, name: str) -> Foreign:
        if name not in self.loaded:
            self.loaded[name] = load_foreign(str(self.folder(name)), CONFIG)
        return self.loaded[name]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    torch.set_num_threads(1)
    return Saved(tmp_path_factory.mktemp("models"))


@pytest.fixture(params=ARCHITECTURES)
def foreign(request: pytest.FixtureRequest, saved: Saved) -> Foreign:
    return saved.load(request.param)


def rows_of(foreign: Foreign, data: Path, request: str | None = None) -> ForeignRows:
    return read_rows(foreign, data / "data.json", data, None, request, CONFIG.data)


def batch_of(foreign: Foreign, data: Path, count: int = 4) -> Batch:
    return collate(first_samples(rows_of(foreign, data), count), foreign.prompts.begin_id)


def picture(batch: Batch, index: int) -> Image.Image:
    assert batch.pixels_BCHW is not None
    return Image.fromarray(batch.pixels_BCHW[index].permute(1, 2, 0).numpy())


def own_inputs(foreign: Foreign, batch: Batch, index: int) -> dict[str, Any]:
    """What the model's processor makes of prompt, picture and caption in one go, the way transformers documents it."""
    sample, processor = batch.samples[index], foreign.processor
    human = "Describe the picture." if sample.row % 2 == 0 else "What is this?"
    image = picture(batch, index)
    options: dict[str, Any] = (
        {"do_image_splitting": False} if hasattr(processor.image_processor, "do_image_splitting") else {}
    )
    options |= {"crop_to_patches": False} if hasattr(processor.image_processor, "crop_to_patches") else {}
    if not processor.chat_template:
        text = f"<image>{human}"
        return dict(processor(text=[text], images=[[image]], suffix=[sample.caption], return_tensors="pt"))
    parts = [{"type": "image"}, {"type": "text", "text": human}]
    turns = [
        {"role": "user", "content": parts if sample.row % 2 else parts[::-1]},
        {"role": "assistant", "content": [{"type": "text", "text": sample.caption}]},
    ]
    text = processor.apply_chat_template(turns, tokenize=False)
    return dict(processor(text=[text], images=[[image]], return_tensors="pt", add_special_tokens=False, **options))


@torch.no_grad()
def own_nll(foreign: Foreign, inputs: dict[str, Any], positions: range) -> torch.Tensor:
    """Cross-entropy of the tokens at these positions by the untouched model."""
    inputs = {key: value for key, value in inputs.items() if key != "labels"}
    logits_TK = foreign.scorer.model(**inputs).logits[0]
    ids_T = inputs["input_ids"][0]
    return F.cross_entropy(
        logits_TK[positions.start - 1 : positions.stop - 1], ids_T[positions.start : positions.stop], reduction="none"
    )


def test_every_architecture_passes_its_self_tests(foreign: Foreign, data: Path) -> None:
    refuse_unfit(foreign.scorer, batch_of(foreign, data, 2))


def test_the_loss_of_the_own_picture_is_the_untouched_models_on_its_own_processors_inputs(
    foreign: Foreign, data: Path
) -> None:
    batch = batch_of(foreign, data)
    got = foreign.scorer.nll(batch, foreign.scorer.encode(batch)).per_sample()
    for index, sample in enumerate(batch.samples):
        if "<|im_end|>" in sample.caption:
            continue  # the processor alone would read it as the end of the turn
        inputs = own_inputs(foreign, batch, index)
        ids_T, first = inputs["input_ids"][0].numpy(), int(np.argmax(sample.labels_T != IGNORE_INDEX))
        length = min(len(ids_T), len(sample.ids_T))
        if foreign.prompts.ending.lead:
            length -= 1  # this template ends a turn with a space where EOS is scored
        assert length >= len(sample.ids_T) - 1
        np.testing.assert_array_equal(ids_T[:length], sample.ids_T[:length])
        want_N = own_nll(foreign, inputs, range(first, length))
        torch.testing.assert_close(got[index][: len(want_N)], want_N, atol=1e-4, rtol=0)


def test_no_image_is_the_models_own_prompt_without_an_image(foreign: Foreign, data: Path) -> None:
    if not foreign.prompts.has_template:
        pytest.skip("its processor cannot make a prompt without an image")
    batch = batch_of(foreign, data, 1)
    sample = batch.samples[0]
    text = foreign.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": "Describe the picture."}]}],
        add_generation_prompt=True,
        tokenize=False,
    )
    prompt = foreign.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[*prompt, *sample.labels_T[sample.labels_T != IGNORE_INDEX].tolist()]])
    want_N = own_nll(foreign, {"input_ids": ids}, range(len(prompt), ids.shape[1]))
    torch.testing.assert_close(foreign.scorer.nll(batch, None).nll_N, want_N, atol=1e-4, rtol=0)


def test_zeros_and_another_picture_change_the_loss(foreign: Foreign, data: Path) -> None:
    batch = batch_of(foreign, data)
    visual = foreign.scorer.encode(batch)
    assert all(layer.shape[:2] == (4, foreign.scorer.tokens) for layer in visual.layers)
    own, other, zero = (
        foreign.scorer.nll(batch, v).nll_N for v in (visual, visual.rows([1, 2, 3, 0]), visual.map(torch.zeros_like))
    )
    assert (own - other).abs().max() > 1e-3
    assert (own - zero).abs().max() > 1e-3


def test_a_batch_gives_what_its_samples_give_alone(foreign: Foreign, data: Path) -> None:
    batch = batch_of(foreign, data)
    scorer, visual = foreign.scorer, foreign.scorer.encode(batch)
    alone = [collate([sample], foreign.prompts.begin_id) for sample in batch.samples]
    for layer, *singles in zip(visual.layers, *(scorer.encode(single).layers for single in alone), strict=True):
        torch.testing.assert_close(layer, torch.cat(singles), atol=1e-4, rtol=0)
    for seen in (visual, None):
        got = scorer.nll(batch, seen).per_sample()
        for index, single in enumerate(alone):
            want = scorer.nll(single, None if seen is None else seen.rows([index])).nll_N
            torch.testing.assert_close(got[index], want, atol=1e-4, rtol=0)


def test_every_depth_of_deepstack_features_is_replaced(saved: Saved, data: Path) -> None:
    foreign = saved.load("qwen3_vl")
    batch = batch_of(foreign, data)
    visual = foreign.scorer.encode(batch)
    assert len(visual.layers) == foreign.scorer.layers == 3
    own = foreign.scorer.nll(batch, visual).nll_N
    for depth in range(3):
        layers = tuple(torch.zeros_like(v) if d == depth else v for d, v in enumerate(visual.layers))
        assert (foreign.scorer.nll(batch, VisualTokens(layers)).nll_N - own).abs().max() > 1e-3


def refusal(foreign: Foreign, data: Path) -> str:
    with pytest.raises(ValueError) as refused:
        refuse_unfit(foreign.scorer, batch_of(foreign, data, 2))
    assert "\n" not in str(refused.value) and foreign.name in str(refused.value)
    return str(refused.value)


def test_a_model_that_lets_the_picture_past_its_features_is_refused(
    saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = saved.load("llava")
    model, own = foreign.scorer.model, foreign.scorer.model.forward

    def leaky(*arguments: Any, pixel_values: torch.Tensor | None = None, **options: Any) -> Any:
        out = own(*arguments, pixel_values=pixel_values, **options)
        out.logits[..., 0] += 0 if pixel_values is None else pixel_values.mean()
        return out

    monkeypatch.setattr(model, "forward", leaky)
    assert "self-test `leak`: negated pixels change a loss" in refusal(foreign, data)


def test_a_model_that_computes_its_features_and_ignores_them_is_refused(
    saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = saved.load("llava")
    inner: Any = foreign.scorer.model.model
    own = inner.forward

    def ignorant(*arguments: Any, pixel_values: torch.Tensor | None = None, **options: Any) -> Any:
        if pixel_values is not None:
            inner.get_image_features(
                pixel_values=pixel_values, vision_feature_layer=-2, vision_feature_select_strategy="default"
            )
        return own(*arguments, pixel_values=None, **options)

    monkeypatch.setattr(inner, "forward", ignorant)
    assert "self-test `sentinel`" in (message := refusal(foreign, data))
    assert "it ignores its image" in message


def test_a_model_that_never_asks_for_image_features_is_refused(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = transformers.LlavaForConditionalGeneration
    own = kind.forward

    def blind(self: Any, input_ids: Any = None, pixel_values: Any = None, **options: Any) -> Any:
        return own(self, input_ids=input_ids, **options)

    monkeypatch.setattr(kind, "forward", blind)
    with pytest.raises(ValueError, match="llava.*a forward pass never asks for them"):
        load_foreign(str(saved.folder("llava")), CONFIG)


def test_a_model_that_reads_its_caption_ahead_is_refused(
    saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = saved.load("paligemma")
    assert foreign.scorer.prefix_attention
    monkeypatch.setattr(foreign.scorer, "_types", {"token_type_ids": (0, 0, 0)})
    assert "self-test `causal`: other caption tokens change a loss before them" in refusal(foreign, data)


def test_a_model_whose_rows_get_mixed_up_is_refused(saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = saved.load("internvl")
    put = type(foreign.scorer._layout).put
    monkeypatch.setattr(
        type(foreign.scorer._layout), "put", lambda self, visual: put(self, visual.map(lambda layer: layer.flip(0)))
    )
    assert "self-test `own features`" in refusal(foreign, data)


def test_a_model_that_breaks_on_foreign_features_is_refused_not_crashed(
    saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = saved.load("gemma3")
    monkeypatch.setattr(type(foreign.scorer._layout), "put", lambda self, visual: object())
    assert "it ended in AttributeError" in refusal(foreign, data)


def test_an_image_with_another_number_of_positions_is_rejected_by_name(
    saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = saved.load("llava")
    rows = rows_of(foreign, data)
    monkeypatch.setattr(foreign.scorer, "image_positions", lambda pixels: [5])
    item = rows[3]
    assert isinstance(item, Reject)
    assert (item.row, item.reason) == (3, OTHER_TOKENS)
    assert item.detail == "images/00003.png: 5 image positions, all others have 4"


def run(saved: Saved, data: Path, name: str, out: Path, *more: str) -> tuple[int, dict[str, Any]]:
    command = [
        "ablate",
        "--model",
        str(saved.folder(name)),
        "--data",
        str(data / "data.json"),
        "--image_root",
        str(data),
    ]
    code = main([*command, "--output", str(out), *CPU, *more])
    return code, json.loads((out / "results.json").read_text(encoding="utf-8"))


def test_an_untrained_model_gets_a_verdict_and_the_page_of_our_own(
    saved: Saved, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["--train_data", str(data / "data.json")]
    code, results = run(
        saved, data, "llava", tmp_path, "--num_samples", "20", "--batch_size", "5", "--seed", "3", *train
    )
    assert (code, results["verdict"]) in ((1, "FAIL"), (3, "INCONCLUSIVE"))
    ablation = results["ablation"]
    assert (ablation["samples"], ablation["requested"], ablation["seed"]) == (ROWS, 20, 3)
    assert {"correct", "shuffled", "zero", "noise", "no-image", "mean-token", "grey"} <= set(ablation["conditions"])
    assert "28x28 pixels" in ablation["wording"]["images"] and "4 visual tokens" in ablation["wording"]["images"]
    assert "</s>" in ablation["wording"]["labels"]
    assert ablation["wording"]["self-tests"].startswith("Passed before scoring")
    assert results["config"]["model"]["llm"].endswith("llava") and "connector" not in results["config"]
    assert results["checkpoint"].endswith("llava") and results["coverage"]["samples"] == ROWS
    assert {path.name for path in tmp_path.iterdir()} >= {
        "results.json",
        "runbook.md",
        "report.html",
        "samples.parquet",
    }
    assert "VERDICT" in capsys.readouterr().out
    assert {found["code"] for found in results["diagnosis"]} <= {"tower-uninitialised", "eval-too-small", *NOT_TRAINED}


LEFT_OUT = {
    "blind": "left out: it needs a prompt trained through a model of our own.",
    "donors": "left out: donors by likeness need the features of our own vision tower; matching goes without.",
    "mean-token": "left out: it needs --train_data, rows whose images make the mean.",
}


def test_what_was_asked_for_and_left_out_is_said_on_the_terminal(
    saved: Saved, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for conditions, absent in (("zero,mean-token,blind,donors", LEFT_OUT), ("standard", ["mean-token"])):
        _, results = run(saved, data, "llava", tmp_path, "--num_samples", "6", "--conditions", conditions)
        said = capsys.readouterr().out.splitlines()
        assert [line for line in said if "left out" in line] == [
            f"  {name}: {LEFT_OUT[name]}" for name in LEFT_OUT if name in absent
        ]
        assert results["ablation"]["matching"] is None and not set(LEFT_OUT) & set(results["ablation"]["conditions"])
    train = ["--train_data", str(data / "data.json"), "--conditions", "zero,mean-token"]
    run(saved, data, "qwen3_vl", tmp_path, "--num_samples", "6", *train)
    told = "  mean-token: left out: this model takes visual tokens at several depths; no mean is defined there."
    assert told in capsys.readouterr().out.splitlines()


def test_a_list_of_which_nothing_can_be_had_is_refused_once_the_model_is_known(
    saved: Saved, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["--train_data", str(data / "data.json"), "--output", str(tmp_path)]
    where = ["--model", str(saved.folder("qwen3_vl")), "--data", str(data / "data.json"), "--image_root", str(data)]
    assert main(["ablate", *where, *train, *CPU, "--conditions", "mean-token,blind"]) == 2
    assert capsys.readouterr().err == (
        "error: --conditions: nothing but `correct` can be had here (blind: it needs a prompt trained through a model "
        "of our own; mean-token: this model takes visual tokens at several depths; no mean is defined there); name "
        "others, such as runbook\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_mean_over_scored_images_is_warned_about(
    saved: Saved, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads((data / "data.json").read_text(encoding="utf-8"))
    halves = {"scored": rows[:8], "half": rows[4:], "other": rows[8:]}
    for name, some in halves.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(some), encoding="utf-8")

    def warned(train: str, *more: str) -> list[str]:
        config = foreign_config([*CPU, *more])
        file = tmp_path / "scored.json"
        results = ablate_model(
            saved.folder("llava"), file, data, 8, "runbook,mean-token", tmp_path / f"{train}.json", config=config
        )
        assert results.ablation is not None and "mean-token" in results.ablation.conditions
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: --train_data")]
        noted = results.ablation.wording.get("mean-token")
        assert lines == ([f"warning: {noted}"] if noted else [])
        return lines

    assert warned("other") == []
    assert warned("half", "--ablation.mean_token_images", "5") == [
        "warning: --train_data has images of --data: 4 of the 5 images that mean-token averages are scored too; name "
        "rows that are not scored"
    ]
    (line,) = warned("scored")
    assert line.startswith("warning: --train_data is the file of --data: 8 of the 8 images")


def test_a_short_data_file_is_no_short_held_out_split(saved: Saved, data: Path) -> None:
    config = foreign_config(CPU)
    for wanted in (20, ROWS):
        got = ablate_model(saved.folder("llava"), data / "data.json", data, wanted, "runbook", config=config).ablation
        assert got is not None and (got.requested, got.samples) == (wanted, ROWS)
        warnings = [reason for reason in got.reasons if reason.startswith("warning: ") and "requested" in reason]
        told = f"warning: 20 samples were requested: the data file has no more than {ROWS} rows"
        assert warnings == ([told] if wanted > ROWS else [])


def test_all_ways_through_a_sound_model_are_found_sound(foreign: Foreign, data: Path) -> None:
    probes = probe(foreign.scorer, batch_of(foreign, data))
    assert probes.text.horizon == 1 and probes.tokens.nan_share == 1
    assert diagnose_probes(probes) == []


def test_a_model_whose_mask_hides_the_picture_fails_with_gaps_of_nothing(
    saved: Saved, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = transformers.LlavaModel
    own = kind.forward

    def hiding(self: Any, input_ids: Any = None, attention_mask: Any = None, **options: Any) -> Any:
        seen = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = input_ids == self.config.image_token_id
        return own(self, input_ids=input_ids, attention_mask=seen * ~hidden, **options)

    monkeypatch.setattr(kind, "forward", hiding)
    code, results = run(saved, data, "llava", tmp_path, "--num_samples", "12", "--conditions", "runbook")
    assert (code, results["verdict"]) == (1, "FAIL")
    gaps = [results["ablation"]["conditions"][name]["gap"] for name in ("shuffled", "zero", "noise")]
    assert gaps == pytest.approx([0, 0, 0], abs=1e-6)
    assert results["diagnosis"][0]["code"] == "image-masked"


def test_the_page_shows_what_the_model_writes_and_how_to_score_it_again(saved: Saved, data: Path) -> None:
    foreign = saved.load("qwen2_5_vl")
    samples = first_samples(rows_of(foreign, data), 3)
    texts = write_captions(foreign, samples, batch_size=2, max_new_tokens=5)
    scorer = foreign.scorer
    for sample, text in zip(samples, texts, strict=True):
        ids = torch.from_numpy(sample.ids_T[sample.labels_T == IGNORE_INDEX])[None]
        images, start = scorer.pixels(sample.pixels_CHW[None]), ids.shape[1]
        for _ in range(5):
            logits_BTK = scorer.model(**scorer.prompt_inputs(ids), **images).logits
            ids = torch.cat([ids, logits_BTK[:, -1:].argmax(-1)], dim=1)
        new = ids[0, start:].tolist()
        new = new[: new.index(2)] if 2 in new else new
        assert text == foreign.processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    config = foreign_config([*CPU, "--ablation.gallery", "2"])
    folder = saved.folder("qwen2_5_vl")
    results = ablate_model(folder, data / "data.json", data, 6, "runbook,matching", config=config)
    assert [sample.written is not None for sample in results.scored].count(True) == 2
    assert results.ablation is not None and results.ablation.matching is not None and results.ablation.words is not None
    assert results.ablation.matching.captions == 6 and results.ablation.words.distinct_words > 3
    runbook = render_runbook(results)
    assert "config.yaml" not in runbook and "--checkpoint" not in runbook


def test_a_model_that_cannot_write_is_scored_all_the_same(
    saved: Saved, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no cache\nof this kind")

    monkeypatch.setattr(transformers.LlavaForConditionalGeneration, "generate", broken)
    results = ablate_model(
        saved.folder("llava"), data / "data.json", data, 5, "runbook", config=foreign_config(CPU[:-2])
    )
    assert results.ablation is not None and results.ablation.samples == 5
    assert (
        results.ablation.wording["written"] == "Nothing written: generate ended in RuntimeError: no cache of this kind"
    )
    assert all(sample.written is None for sample in results.scored)


def test_results_do_not_depend_on_the_batch_size(saved: Saved, data: Path) -> None:
    folder = saved.folder("qwen3_vl")
    losses = []
    for size in ("1", "4"):
        config = foreign_config([*CPU, "--ablation.batch_size", size])
        results = ablate_model(
            folder, data / "data.json", data, 4, "runbook,no-image,mean-token", data / "data.json", config=config
        )
        assert results.ablation is not None
        losses.append([c.loss for c in results.ablation.conditions.values()])
    assert results.ablation.wording["mean-token"].startswith(
        "Left out: this model takes visual tokens at several depths"
    )
    assert len(losses[0]) == 5
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-4)


def test_unreadable_images_are_counted_and_there_is_no_pass(saved: Saved, data: Path, tmp_path: Path) -> None:
    rows = json.loads((data / "data.json").read_text(encoding="utf-8"))
    rows[4]["image"] = "images/gone.png"
    rows[5]["conversations"][1]["value"] = " "
    rows[6]["conversations"][0]["value"] = "<image>\n</s>"
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    config = foreign_config([*CPU, "--data.max_rejected", "0.5"])
    results = ablate_model(saved.folder("llava"), tmp_path / "rows.json", data, conditions="runbook", config=config)
    assert results.ablation is not None and results.verdict != "PASS"
    assert results.ablation.rejected == {
        "caption blank": 1,
        "image missing": 1,
        "special token in the human turn": 1,
    }
    assert results.ablation.samples == ROWS - 3
    with pytest.raises(ValueError, match="3 of 12 scored rows are unusable"):
        ablate_model(saved.folder("llava"), tmp_path / "rows.json", data, conditions="runbook", config=CONFIG)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected one of --checkpoint and --model, got neither"),
        (["--checkpoint", "c.pt", "--model", "m"], "expected one of --checkpoint and --model, got both"),
        (["--model", "m"], "--model: --data and --image_root missing"),
        (["--model", "m", "--data", "d.json"], "--model: --image_root missing"),
        (["--checkpoint", "c.pt", "--prompt", "<image>"], "--prompt: goes with --model"),
        (["--model", "m", "--data", "gone.json", "--image_root", "."], "--data: expected a data file"),
        (["--model", "m", "--data", "{rows}", "--image_root", "gone"], "--image_root: expected the folder"),
        (["--model", "./none", "--data", "{rows}", "--image_root", "."], "--model: the folder ./none does not exist"),
        (
            ["--model", "{llava}", "--data", "{rows}", "--image_root", "{root}", "--prompt", "What?"],
            "--prompt: expected one <image>",
        ),
        (
            ["--model", "{llava}", "--data", "{rows}", "--image_root", "{root}", "--max_seq_len", "9"],
            "image block cut by max_seq_len",
        ),
        *(
            (["--model", "m", "--data", "{rows}", "--image_root", "{root}", "--image_size", size, *more], message)
            for size, more, message in (
                ("-3", [], "--image_size: expected 8 to 4096 pixels, got -3; leave it out for the size"),
                ("0", [], "--image_size: expected 8 to 4096 pixels, got 0"),
                ("7", [], "--image_size: expected 8 to 4096 pixels, got 7"),
                ("100000", [], "--image_size: expected 8 to 4096 pixels, got 100000"),
                ("41", ["--data.max_pixels", "1600"], "--image_size: expected 8 to 40 pixels, got 41"),
            )
        ),
        *(
            (
                ["--model", "m", "--data", "{rows}", "--image_root", "{root}", "--conditions", conditions],
                "--conditions: nothing but `correct` can be had here (" + message,
            )
            for conditions, message in (
                ("blind", "blind: it needs a prompt trained through a model of our own)"),
                ("correct,donors", "donors: donors by likeness need"),
                ("mean-token", "mean-token: it needs --train_data"),
            )
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_usage_ends_in_one_line(
    arguments: list[str], message: str, saved: Saved, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"rows": data / "data.json", "root": data, "llava": saved.folder("llava")}
    assert main(["ablate", *(argument.format(**names) for argument in arguments)]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said


def test_a_text_model_is_refused_in_one_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tiny_runs import save_backbones

    save_backbones(tmp_path)
    for part in ("llm", "vision"):
        code = main(
            ["ablate", "--model", str(tmp_path / part), "--data", str(data / "data.json"), "--image_root", str(data)]
        )
        said = capsys.readouterr().err.strip()
        assert code == 2 and "\n" not in said
        assert "--model:" in said
