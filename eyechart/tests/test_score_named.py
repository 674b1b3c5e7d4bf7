"""`eyechart score MODEL --data ROWS` on models of transformers: what is scored, left out, said and refused."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from eyechart.api.score import score
from eyechart.cli import main
from eyechart.models.writing import write_captions
from eyechart.reporting.reasons import reasons_of
from eyechart.reporting.remarks import sentence
from eyechart.reporting.runbook import render_runbook
from eyechart.seam import IGNORE_INDEX
from saved_models import CPU, ROWS, Saved, batch_of, data, saved, settings
from tiny_backbones import save_backbones

__all__ = ["data", "saved"]

NOT_TRAINED = ("under-trained", "picture-harmful", "constant-prompt")
"""What the pattern of check 1 can look like on random weights."""


def run(saved: Saved, data: Path, name: str, out: Path, *more: str) -> tuple[int, dict[str, Any]]:
    where = ["--data", str(data / "data.json"), "--image_root", str(data), "--output", str(out)]
    code = main(["score", str(saved.folder(name)), *where, *CPU, *more])
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
    remarks = {remark["about"]: remark for remark in ablation["remarks"]}
    assert remarks["images"]["figures"] == {"width": 28, "height": 28, "tokens": 4}
    assert remarks["labels"]["figures"] == {"end": "</s>"} and "self-tests" in remarks
    assert results["config"]["model"]["llm"].endswith("llava") and "connector" not in results["config"]
    assert results["checkpoint"].endswith("llava") and results["coverage"]["samples"] == ROWS
    assert {path.name for path in tmp_path.iterdir()} >= {
        "results.json",
        "runbook.md",
        "report.html",
        "samples.parquet",
    }
    assert "VERDICT" in capsys.readouterr().out
    assert {found["code"] for found in results["diagnosis"]} <= {
        "tower-uninitialised",
        "captions-unread",
        "eval-too-small",
        *NOT_TRAINED,
    }


LEFT_OUT = {
    "blind": "left out. It needs a constant prompt trained with the model, which only the qwen3-vlm trainer makes.",
    "donors": "left out. Donors by similarity need the features of the qwen3-vlm vision tower; matching uses random "
    "donors.",
    "mean-token": "left out. It needs --train_data: a file of rows whose images are averaged.",
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
    told = "  mean-token: left out. This model takes visual tokens at several depths, for which no mean is defined."
    assert told in capsys.readouterr().out.splitlines()


def test_a_list_of_which_nothing_can_be_had_is_refused_once_the_model_is_known(
    saved: Saved, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["--train_data", str(data / "data.json"), "--output", str(tmp_path)]
    where = [str(saved.folder("qwen3_vl")), "--data", str(data / "data.json"), "--image_root", str(data)]
    assert main(["score", *where, *train, *CPU, "--conditions", "mean-token,blind"]) == 2
    assert capsys.readouterr().err == (
        "error: --conditions: only `correct` can be scored here (blind: It needs a constant prompt "
        "trained with the model, which only the qwen3-vlm trainer makes. mean-token: This model takes visual tokens at "
        "several depths, for which no mean is defined.); name other conditions, such as runbook\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_mean_over_scored_images_is_warned_about(
    saved: Saved, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads((data / "data.json").read_text(encoding="utf-8"))
    halves = {"scored": rows[:8], "half": rows[4:], "other": rows[8:]}
    for name, some in halves.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(some), encoding="utf-8")

    def warned(train: str, **more: Any) -> list[str]:
        file = tmp_path / "scored.json"
        how = settings(train_data=str(tmp_path / f"{train}.json"), **more)
        results = score(saved.folder("llava"), file, "runbook,mean-token", 8, data, how)
        assert results.ablation is not None and "mean-token" in results.ablation.conditions
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: --train_data")]
        assert lines == [f"warning: {sentence(r)}" for r in results.ablation.remarks if r.about == "mean-token"]
        return lines

    assert warned("other") == []
    assert warned("half", ablation__mean_token_images=5) == [
        "warning: --train_data and --data share images: 4 of the 5 images averaged for mean-token are also scored; use "
        "rows that are not scored."
    ]
    (line,) = warned("scored")
    assert line.startswith("warning: --train_data and --data are one file: 8 of the 8 images")


def test_a_short_data_file_is_no_short_held_out_split(saved: Saved, data: Path) -> None:
    for wanted in (20, ROWS):
        got = score(saved.folder("llava"), data / "data.json", "runbook", wanted, data, settings()).ablation
        assert got is not None and (got.requested, got.samples) == (wanted, ROWS)
        warnings = [said for reason, said in reasons_of(got) if reason.code == "fewer-than-requested"]
        told = f"Warning: 20 samples were requested and {ROWS} scored: there are only {ROWS}"
        assert warnings == ([told] if wanted > ROWS else [])


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
    model = saved.load("qwen2_5_vl")
    batch, scorer = batch_of(model, data, 3), model.scorer
    texts = write_captions(scorer, model.processor.tokenizer, batch, max_new_tokens=5)
    for sample, text in zip(batch.samples, texts, strict=True):
        ids = torch.from_numpy(sample.ids_T[sample.labels_T == IGNORE_INDEX])[None]
        images, start = scorer.pixels(sample.pixels_CHW[None]), ids.shape[1]
        for _ in range(5):
            logits_BTK = scorer.model(**scorer.prompt_inputs(ids), **images).logits
            ids = torch.cat([ids, logits_BTK[:, -1:].argmax(-1)], dim=1)
        new = ids[0, start:].tolist()
        new = new[: new.index(2)] if 2 in new else new
        assert text == model.processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    folder = saved.folder("qwen2_5_vl")
    results = score(folder, data / "data.json", "runbook,matching", 6, data, settings(ablation__gallery=2))
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
    results = score(saved.folder("llava"), data / "data.json", "runbook", 5, data, settings(ablation__gallery=100))
    assert results.ablation is not None and results.ablation.samples == 5
    (remark,) = [remark for remark in results.ablation.remarks if remark.code == "writing-failed"]
    assert remark.figures == {"error": "RuntimeError", "message": "no cache of this kind"}
    assert all(sample.written is None for sample in results.scored)


def test_results_do_not_depend_on_the_batch_size(saved: Saved, data: Path) -> None:
    folder = saved.folder("qwen3_vl")
    losses = []
    for size in (1, 4):
        how = settings(ablation__batch_size=size, train_data=str(data / "data.json"))
        results = score(folder, data / "data.json", "runbook,no-image,mean-token", 4, data, how)
        assert results.ablation is not None
        losses.append([c.loss for c in results.ablation.conditions.values()])
    (remark,) = [remark for remark in results.ablation.remarks if remark.about == "mean-token"]
    assert (remark.code, remark.left_out) == ("mean-of-several-depths", True)
    assert len(losses[0]) == 5
    np.testing.assert_allclose(losses[0], losses[1], atol=1e-4)


def test_unreadable_images_are_counted_and_there_is_no_pass(saved: Saved, data: Path, tmp_path: Path) -> None:
    rows = json.loads((data / "data.json").read_text(encoding="utf-8"))
    rows[4]["image"] = "images/gone.png"
    rows[5]["conversations"][1]["value"] = " "
    rows[6]["conversations"][0]["value"] = "<image>\n</s>"
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    file, folder = tmp_path / "rows.json", saved.folder("llava")
    results = score(folder, file, "runbook", image_root=data, settings=settings(max_rejected=0.5))
    assert results.ablation is not None and results.verdict != "PASS"
    assert results.ablation.rejected == {
        "caption blank": 1,
        "image missing": 1,
        "special token in the human turn": 1,
    }
    assert results.ablation.samples == ROWS - 3
    with pytest.raises(ValueError, match=r"3 of 12 scored rows are unusable.* more than --max_rejected 0.01"):
        score(folder, file, "runbook", image_root=data, settings=settings())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: MODEL, --data"),
        (["m"], "the following arguments are required: --data"),
        (["m", "--data", "{rows}", "--unknown"], "unrecognized arguments: --unknown"),
        (["m", "--data", "gone.json", "--image_root", "."], "--data: expected a data file"),
        (["m", "--data", "{rows}", "--image_root", "gone"], "--image_root: expected the folder"),
        (["m", "--data", "{rows}", "--train_data", "gone"], "--train_data: expected a data file"),
        (
            ["m", "--data", "{rows}", "--num_samples", "0"],
            "--num_samples: expected a number from 1 to",
        ),
        (["./none", "--data", "{rows}"], "MODEL: the folder ./none does not exist"),
        (["{llava}", "--data", "{rows}", "--prompt", "What?"], "--prompt: expected one <image>"),
        (["{llava}", "--data", "{rows}", "--max_seq_len", "9"], "image block cut by max_seq_len"),
        (["m", "--data", "{rows}", "--batch_size", "0"], "--batch_size: Input should be greater than or equal to 1"),
        (["m", "--data", "{rows}", "--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["m", "--data", "{rows}", "--device", "cuda"], "--device: cuda was requested"),
        (
            ["m", "--data", "{rows}", "--attention", "flash_attention_2", "--device", "cpu"],
            "--attention: flash_attention_2 needs a GPU, got cpu; set --attention to sdpa",
        ),
        (
            ["m", "--data", "{rows}", "--set", "ablation.derangement", "1"],
            "ablation.derangement: no such setting; did you mean ablation.derangements?",
        ),
        *(
            (["m", "--data", "{rows}", "--image_size", size, *more], message)
            for size, more, message in (
                ("-3", [], "--image_size: expected 8 to 4096 pixels, got -3; leave it out to use the size"),
                ("0", [], "--image_size: expected 8 to 4096 pixels, got 0"),
                ("7", [], "--image_size: expected 8 to 4096 pixels, got 7"),
                ("100000", [], "--image_size: expected 8 to 4096 pixels, got 100000"),
                ("41", ["--set", "max_pixels", "1600"], "--image_size: expected 8 to 40 pixels, got 41"),
            )
        ),
        *(
            (
                ["m", "--data", "{rows}", "--conditions", conditions],
                "--conditions: only `correct` can be scored here (" + message,
            )
            for conditions, message in (
                ("blind", "blind: It needs a constant prompt trained with the model"),
                ("correct,donors", "donors: Donors by similarity need"),
                ("mean-token", "mean-token: It needs --train_data"),
            )
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_usage_ends_in_one_line(
    arguments: list[str], message: str, saved: Saved, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if message.startswith("--device: cuda") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    names = {"rows": data / "data.json", "llava": saved.folder("llava")}
    assert main(["score", *(argument.format(**names) for argument in arguments)]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said


def test_a_text_model_is_refused_in_one_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_backbones(tmp_path)
    for part in ("llm", "vision"):
        code = main(["score", str(tmp_path / part), "--data", str(data / "data.json"), "--image_root", str(data)])
        said = capsys.readouterr().err.strip()
        assert code == 2 and "\n" not in said
        assert "MODEL:" in said


FORK = """
import os, sys
import torch, eyechart.api.score, eyechart.models.loading
from eyechart.cli import main
torch.set_num_threads(1)  # a process with a pool of threads is not safe to fork
for rank in "01":
    if os.fork() == 0:
        os.environ |= {"RANK": rank, "LOCAL_RANK": rank}
        for stream, kind in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{sys.argv[1]}/{rank}.{kind}", os.O_WRONLY | os.O_CREAT), stream)
        code = main(sys.argv[2:])
        with open(f"{sys.argv[1]}/{rank}.code", "w") as file:
            file.write(str(code))
        sys.stdout.flush()
        os._exit(0)
for _ in "01":
    os.wait()
"""
"""Two processes of a job as torchrun starts them, forked from one that has PyTorch loaded."""


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(saved: Saved, data: Path, tmp_path: Path) -> None:
    wanted = ["--conditions", "runbook,mean-token,matching", "--train_data", str(data / "data.json")]
    code, expected = run(saved, data, "llava", tmp_path / "one", "--batch_size", "5", *wanted)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    command = ["score", str(saved.folder("llava")), *CPU, *wanted, "--data", str(data / "data.json")]
    command += ["--output", str(tmp_path / "two"), "--batch_size", "5"]
    job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    started = subprocess.run(
        [sys.executable, "-c", FORK, str(tmp_path), *command], env={**os.environ, **job}, timeout=300, check=False
    )
    assert started.returncode == 0
    codes, out, err = ([(tmp_path / f"{rank}.{k}").read_text() for rank in (0, 1)] for k in ("code", "out", "err"))
    assert codes == [str(code), "0"], err
    got = json.loads((tmp_path / "two" / "results.json").read_text(encoding="utf-8"))
    for part in ("ablation", "coverage", "diagnosis", "scored", "verdict"):
        assert got[part] == expected[part], part
    assert "VERDICT" in out[0] and out[1] == ""
    assert err[0].count("warning: --train_data") == 1 and "warning" not in err[1]
