"""The seam with users' scorers: every edge case is handled on our side, every broken contract is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import eyechart
from eyechart.reporting.parquet import SampleRows
from eyechart.results import Results, to_json
from eyechart.scoring.batching import collate, without_block
from eyechart.seam import IGNORE_INDEX, Batch, Description, Reject, Row, Sample, TokenNLL, VisualTokens, Vocabulary
from fake_scorers import EOS, Constant, Healthy, make_batches, make_sample

COUNT, WIDTH = 12, 8


class Stranger(torch.nn.Module):
    """Mean colour to Q visual tokens; a recurrent decoder over characters. Everything about it can be changed."""

    prompt: Sequence[int] = (1, 1, 2)
    end: Sequence[int] = (0,)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.embed = torch.nn.Linear(3, 2 * WIDTH), torch.nn.Embedding(128, WIDTH)
        self.decoder = torch.nn.GRU(WIDTH, 32, batch_first=True)
        self.head = torch.nn.Linear(32, 128)
        self.eval()

    def batch(self, rows: Sequence[Row]) -> Batch:
        return collate([self.sample(row) for row in rows])

    def sample(self, row: Row) -> Sample | Reject:
        with Image.open(row.path) as image:
            pixels_CHW = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        answer = [*row.caption.encode("ascii"), *self.end]
        return Sample.of(row, self.prompt, answer, (0, self.prompt.count(1)), pixels_CHW)

    def encode(self, batch: Batch) -> VisualTokens:
        assert batch.pixels_BCHW is not None
        colour_BC = batch.pixels_BCHW.float().mean((2, 3)) / 255
        return VisualTokens((self.encoder(colour_BC).view(len(batch), 2, WIDTH),))

    def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        embeds_BTE = self.embed(batch.ids_BT)
        if visual is not None:
            embeds_BTE[batch.block_BT] = visual.layers[0].flatten(0, 1)
        hidden_BTE, _ = self.decoder(embeds_BTE)
        return TokenNLL.of(self.head(hidden_BTE), batch.labels_BT)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("images")
    colours = np.random.default_rng(0).integers(0, 256, (COUNT, 3))
    for number, colour in enumerate(colours.tolist()):
        Image.new("RGB", (16, 16), tuple(colour)).save(folder / f"{number}.png")
    captions = [f"{'abcd'[n % 4] * (1 + n % 3)} picture {n}" for n in range(COUNT)]
    return [Row(n, str(n), f"{n}.png", "<image>", captions[n], str(folder)) for n in range(COUNT)]


def score(scorer: Any, what: Any, conditions: str = "runbook,no-image", **settings: Any) -> Results:
    return eyechart.score(scorer, what, conditions, settings=eyechart.ScoreSettings(**settings))


def figures(results: Results) -> dict[str, float | None]:
    assert results.ablation is not None
    return {name: condition.loss for name, condition in results.ablation.conditions.items()}


def test_rows_and_batches_of_them_give_the_same_figures_whatever_their_size(rows: list[Row]) -> None:
    expected = figures(score(Stranger(), rows))
    for size in (1, 5, COUNT):
        small = eyechart.AblationSettings(batch_size=size)
        assert figures(score(Stranger(), rows, ablation=small)) == pytest.approx(expected, abs=1e-5)
        batches = [Stranger().batch(rows[i : i + size]) for i in range(0, COUNT, size)]
        assert figures(score(Stranger(), batches)) == pytest.approx(expected, abs=1e-5)


def test_a_scorer_without_batch_takes_batches_and_says_so_of_rows(rows: list[Row]) -> None:
    samples = [make_sample(row) for row in range(40)]
    results = score(Healthy(), make_batches(samples, 8))
    assert results.verdict == "PASS" and results.checkpoint == "Healthy"
    with pytest.raises(ValueError, match=r"Scorer\.batch: Healthy has no such method, so it accepts only batches"):
        score(Healthy(), rows)


def test_a_prompt_that_is_nothing_but_the_image_gets_something_to_begin_with(rows: list[Row]) -> None:
    class ImageAlone(Stranger):
        prompt = (1, 1)

    results = score(ImageAlone(), rows)
    assert results.ablation is not None and "no-image" not in results.ablation.conditions
    assert "image-alone-in-prompt" in [remark.code for remark in results.ablation.remarks if remark.left_out]

    class WithBegin(ImageAlone):
        def describe(self) -> Description:
            return Description("begins", vocabulary=Vocabulary(begin_id=3))

        def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
            if visual is None:
                assert (batch.ids_BT[:, 0] == 3).all() and (batch.labels_BT[:, 0] == IGNORE_INDEX).all()
                assert not batch.block_BT.any() and not (batch.ids_BT == 1).any()
            return super().nll(batch, visual)

    got = figures(score(WithBegin(), rows))
    assert got.pop("no-image") is not None and got == figures(results)


def test_a_text_is_the_same_text_without_its_block_and_the_rest_is_kept() -> None:
    first, second = make_sample(1, words=3), make_sample(2, words=5)
    second = replace(second, block=(1, 3))  # blocks need not be equally long
    batch = collate([first, second])
    text = without_block(batch, None)
    for before, after, length in zip(batch.samples, text.samples, text.lengths_B.tolist(), strict=True):
        start, stop = before.block
        expected = np.concatenate([before.ids_T[:start], before.ids_T[stop:]])
        np.testing.assert_array_equal(after.ids_T, expected)
        assert length == len(expected) and after.label_tokens == before.label_tokens
    assert (text.labels_BT != IGNORE_INDEX).sum(1).tolist() == [4, 6]


def test_images_with_another_number_of_visual_tokens_than_most_are_counted(rows: list[Row]) -> None:
    class Uneven(Stranger):
        """Every fourth image makes three tokens; its prompt has as many places."""

        def sample(self, row: Row) -> Sample | Reject:
            self.prompt = (1, 1, 1, 2) if row.row % 4 == 3 else (1, 1, 2)
            return super().sample(row)

        def encode(self, batch: Batch) -> VisualTokens:
            layer_BQE = super().encode(batch).layers[0]
            images = [
                torch.cat([t, t[:1]]) if s.block[1] == 3 else t for t, s in zip(layer_BQE, batch.samples, strict=True)
            ]
            return VisualTokens.of(images)

        def nll(self, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
            if visual is not None and visual.counts_B is not None:
                parts = [visual.rows([i]).layers[0][0, : visual.counts()[i]] for i in range(len(visual))]
                embeds_BTE = self.embed(batch.ids_BT)
                embeds_BTE[batch.block_BT] = torch.cat(parts)
                return TokenNLL.of(self.head(self.decoder(embeds_BTE)[0]), batch.labels_BT)
            return super().nll(batch, visual)

    results = score(Uneven(), rows)
    assert results.ablation is not None and results.verdict != "PASS"
    assert results.ablation.rejected == {"another number of visual tokens": 3}
    even = [row for row in rows if row.row % 4 != 3]
    assert figures(results)["correct"] == pytest.approx(figures(score(Stranger(), even))["correct"], abs=1e-5)


def test_rows_and_samples_without_an_image_are_counted_and_not_scored(rows: list[Row]) -> None:
    class Some(Stranger):
        """Sees no place for an image in row 5."""

        def sample(self, row: Row) -> Sample | Reject:
            if row.row == 5:
                return Sample.of(row, [2], [*row.caption.encode("ascii"), 0])
            return super().sample(row)

    given = [replace(row, image="") if row.row == 2 else row for row in rows]
    results = score(Some(), given, max_rejected=0.5)
    assert results.ablation is not None
    assert results.ablation.rejected == {"no image": 2} and results.ablation.samples == COUNT - 2
    assert results.verdict != "PASS"


def test_images_that_cannot_be_opened_are_found_one_by_one(rows: list[Row], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    gone = replace(rows[3], image="gone.png")
    broken = replace(rows[7], image="broken.png", image_root=str(tmp_path))
    given = [*rows[:3], gone, *rows[4:7], broken, *rows[8:]]
    results = score(Stranger(), given, max_rejected=0.5)
    assert results.ablation is not None
    assert results.ablation.rejected == {"image unreadable": 2} and results.ablation.samples == COUNT - 2
    with pytest.raises(ValueError, match=r"2 of 12 scored rows are unusable.*gone\.png"):
        score(Stranger(), given)


def test_without_an_end_token_there_is_no_gap_without_it(rows: list[Row]) -> None:
    class Endless(Stranger):
        end = ()

    results = score(Endless(), rows)
    assert results.ablation is not None
    assert all(c.gap_without_eos is None for c in results.ablation.conditions.values())

    class Ends(Stranger):
        def describe(self) -> Description:
            return Description("ends", vocabulary=Vocabulary(end_id=0))

    results = score(Ends(), rows)
    assert results.ablation is not None and results.ablation.conditions["zero"].gap_without_eos is not None


def test_without_a_tokenizer_there_are_no_words_and_everything_else(rows: list[Row], tmp_path: Path) -> None:
    results = score(Stranger(), rows, "full")
    assert results.ablation is not None and results.ablation.words is None
    assert results.ablation.matching is not None
    assert all(sample.pieces == [] and sample.written is None for sample in results.scored)
    eyechart.write_results(results, tmp_path / "out")
    assert eyechart.Results.model_validate_json(to_json(results)) == results
    from eyechart.api.score import measure

    measured = measure(Stranger(), rows, "runbook")
    assert isinstance(measured.samples, SampleRows)
    (batch,) = measured.samples.batches()
    assert batch.column("tokens").null_count == COUNT


def test_captions_without_label_tokens_are_counted_and_nothing_is_judged(rows: list[Row]) -> None:
    class Mute(Stranger):
        def sample(self, row: Row) -> Sample | Reject:
            sample = super().sample(row)
            assert isinstance(sample, Sample)
            return replace(sample, labels_T=np.full_like(sample.labels_T, IGNORE_INDEX))

    results = score(Mute(), rows)
    assert results.ablation is not None and results.ablation.rejected == {"no label tokens": COUNT}
    assert results.ablation.samples == 0 and results.verdict == "FAIL"  # check 2: they teach nothing
    assert results.coverage is not None and results.coverage.zero_label_pct == 100


def test_what_was_scored_is_what_the_scorer_says(rows: list[Row]) -> None:
    class Named(Stranger):
        def describe(self) -> Description:
            return Description("my model", {"vision": "a linear layer"}, {"images": "As they are."})

    results = score(Named(), rows)
    assert results.ablation is not None
    assert results.checkpoint == "my model" and results.ablation.notes == {"images": "As they are."}
    assert results.config["model"] == {"name": "my model", "vision": "a linear layer"}
    assert {"max_seq_len", "json_file"}.isdisjoint(results.config["data"])


def broken(method: str, change: Any) -> Any:
    """A scorer whose `method` returns what `change` makes of (itself, its result, its arguments)."""

    def answer(self: Stranger, *arguments: Any) -> Any:
        return change(self, getattr(Stranger, method)(self, *arguments), *arguments)

    return type("Broken", (Stranger,), {method: answer})()


def rolled(batch: Batch) -> Batch:
    return batch.rows([*range(1, len(batch)), 0])


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (broken("batch", lambda s, out, rows: list(out.samples)), "Scorer.batch: expected a Batch, got list"),
        (broken("batch", lambda s, out, rows: rolled(out)), "Scorer.batch: expected samples of the rows"),
        (broken("batch", lambda s, out, rows: out.rows([0])), "Scorer.batch: expected samples of the rows"),
        (
            broken("batch", lambda s, out, rows: replace(out, pixels_BCHW=out.pixels_BCHW / 255)),
            "Batch.pixels_BCHW: expected uint8",
        ),
        (
            broken("batch", lambda s, out, rows: replace(out, labels_BT=out.labels_BT[:, 1:])),
            r"Batch.labels_BT: expected the shape \[B,T\]",
        ),
        (
            broken("batch", lambda s, out, rows: replace(out, labels_BT=out.labels_BT.roll(-1, 1))),
            "row .: expected labels_BT to begin with the sample's own labels_T",
        ),
        (
            broken("batch", lambda s, out, rows: replace(out, block_BT=torch.zeros_like(out.block_BT))),
            "expected block_BT to mark the sample's image block",
        ),
        (
            broken("batch", lambda s, out, rows: collate([Sample.of(r, [], [5, 6]) for r in rows])),
            "expected a token before the first label",
        ),
        (
            broken("encode", lambda s, out, batch: out.layers[0]),
            "Scorer.encode: expected VisualTokens of a tuple of layers, got Tensor",
        ),
        (
            broken("encode", lambda s, out, batch: out.rows([0])),
            r"Scorer.encode: expected floating-point visual tokens \[B,Q,E\] of 2 images",
        ),
        (broken("encode", lambda s, out, batch: out.map(lambda v: v[:, 0])), r"visual tokens \[B,Q,E\] of 2 images"),
        (
            broken("encode", lambda s, out, batch: out.map(lambda v: v.flip(0))),
            "Scorer.encode: row . has other visual tokens in a batch than alone; samples must be returned in the order",
        ),
        (broken("nll", lambda s, out, batch, v: out.nll_N), "Scorer.nll: expected TokenNLL of two tensors, got Tensor"),
        (
            broken("nll", lambda s, out, batch, v: TokenNLL(out.nll_N[1:], out.counts_B)),
            r"Scorer.nll: expected one loss for each of the \[",
        ),
        (
            broken("nll", lambda s, out, batch, v: TokenNLL(out.nll_N[:, None], out.counts_B)),
            r"got counts \[.*\] and losses of shape \(\d+, 1\)",
        ),
        (
            broken("nll", lambda s, out, batch, v: TokenNLL(out.nll_N, out.counts_B.flip(0))),
            "Scorer.nll: expected one loss for each",
        ),
        (
            broken("nll", lambda s, out, batch, v: TokenNLL(out.nll_N * len(batch), out.counts_B)),
            "Scorer.nll: row . has other losses in a batch than alone",
        ),
        (
            broken("nll", lambda s, out, batch, v: TokenNLL(out.nll_N / (len(batch) == 1), out.counts_B)),
            "Scorer.nll: row . has other losses in a batch than alone",
        ),
        (
            broken("nll", lambda s, out, batch, v: TokenNLL(-out.nll_N, out.counts_B)),
            "Scorer.nll: expected negative log-likelihoods, at least 0",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_contract_is_named(scorer: Any, message: str, rows: list[Row]) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        score(scorer, rows)
    assert "\n" not in str(refused.value)


def test_a_contract_that_breaks_later_is_named_too(rows: list[Row]) -> None:
    def longer(scorer: Stranger, out: VisualTokens, batch: Batch) -> VisualTokens:
        late = any(sample.row == 11 for sample in batch.samples)
        return out.map(lambda v: torch.cat([v, v], dim=2)) if late else out

    with pytest.raises(ValueError, match=r"Scorer\.encode: expected visual tokens \[Q,E\] of one shape and type"):
        score(broken("encode", longer), rows, ablation=eyechart.AblationSettings(batch_size=2))

    class Pairs(Stranger):
        def pair_nll(self, batch: Batch, visual: VisualTokens, images_B: Sequence[int]) -> TokenNLL:
            return TokenNLL(torch.zeros(3), torch.tensor([3]))

    with pytest.raises(ValueError, match=r"Scorer\.pair_nll: expected one loss for each"):
        score(Pairs(), rows, "runbook,matching")


def test_a_loss_that_is_not_finite_is_a_fail_and_no_broken_contract(rows: list[Row]) -> None:
    results = score(broken("nll", lambda s, out, batch, v: TokenNLL(out.nll_N * torch.nan, out.counts_B)), rows)
    assert results.verdict == "FAIL" and results.ablation is not None
    assert (results.ablation.reasons[0].code, results.ablation.reasons[0].about) == ("not-finite", "correct")


def test_a_scorer_that_breaks_under_probes_keeps_its_scores(rows: list[Row]) -> None:
    def fragile(scorer: Stranger, out: TokenNLL, batch: Batch, visual: VisualTokens | None) -> TokenNLL:
        if visual is not None and visual.layers[0].isnan().any():
            raise RuntimeError("NaN\nhere")
        return out

    results = score(broken("nll", fragile), rows)
    assert results.ablation is not None and results.ablation.samples == COUNT
    (remark,) = [remark for remark in results.ablation.remarks if remark.code == "probes-failed"]
    assert remark.figures == {"error": "RuntimeError", "message": "NaN here"}


def test_what_is_given_has_to_be_rows_or_batches_and_numbers_make_sense(rows: list[Row]) -> None:
    for given in ([], [1, 2], [*rows, 3]):
        with pytest.raises(ValueError, match="rows: expected the path of a data file"):
            score(Stranger(), given)
    with pytest.raises(ValueError, match="num_samples: can only be set for rows"):
        eyechart.score(Constant(), make_batches([make_sample(1)], 1), num_samples=3)
    with pytest.raises(ValueError, match=r"row 3: expected every held-out row once"):
        score(Stranger(), [rows[3], *rows[2:5]])


def test_fewer_rows_can_be_scored_and_the_mean_of_others_is_taken(rows: list[Row], tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "x"}]
    import json

    lenders = [{"image": row.image, "conversations": turns} for row in rows[8:]]
    (tmp_path / "train.json").write_text(json.dumps(lenders), encoding="utf-8")
    settings = eyechart.ScoreSettings(train_data=str(tmp_path / "train.json"))
    results = eyechart.score(
        Stranger(), rows[:8], "runbook,mean-token", num_samples=6, image_root=rows[0].image_root, settings=settings
    )
    assert results.ablation is not None and results.ablation.samples == 6
    assert results.ablation.conditions["mean-token"].gap is not None


def test_a_healthy_scorer_of_batches_is_described_by_its_class_and_has_an_end(rows: list[Row]) -> None:
    class Told(Healthy):
        def describe(self) -> Description:
            return Description("told", vocabulary=Vocabulary(end_id=EOS, begin_id=EOS, size=400))

    results = score(Told(), make_batches([make_sample(row) for row in range(40)], 8), "standard")
    assert (results.verdict, results.checkpoint) == ("PASS", "told")
    assert results.coverage is not None and results.coverage.samples == 40
