"""Runs check 1 on a loaded checkpoint, and reads its training log."""

from __future__ import annotations

from pathlib import Path

from accelerate import PartialState

from eyechart.data.choice import even_choice
from eyechart.data.dataset import Dataset, count_rejects, judge_rejects
from eyechart.progress import progress_bar
from eyechart.results import Ablation, LossPoint, Training
from eyechart.scoring.ablation import ablate as run_ablation
from eyechart.scoring.batching import LazyBatches, batches_by_length
from eyechart.scoring.measures import with_measures
from eyechart.scoring.plan import Execution, Plan
from eyechart.scoring.ranks import Ranks, ranks_of_job
from eyechart.scoring.samples import decoder
from eyechart.scoring.summary import Scores
from eyechart.scoring.unigram import MOST_CAPTIONS, TokenCounts
from eyechart.seam import Vocabulary
from qwen3_vlm.build import Prepared
from qwen3_vlm.commands.constant_tokens import mean_tokens, trained_blind
from qwen3_vlm.commands.loaded import Loaded
from qwen3_vlm.commands.recorder import Recorder, look_inside
from qwen3_vlm.train.findings_log import read_forced
from qwen3_vlm.train.looks import read_looks
from qwen3_vlm.train.train_utils import read_records_of_run


def score(
    loaded: Loaded, prepared: Prepared, requested: int, names: tuple[str, ...], checkpoint: Path
) -> tuple[Ablation, Scores]:
    """Run check 1 on the first `requested` held-out samples, and also return the per-token losses of every sample.

    The results also contain matching, words and the connector's internals, if `names` and the scores allow it.
    """
    config, held_out = loaded.config, prepared.eval
    ranks = job_of(config.model.device)
    asked = set(prepared.split.eval[:requested])
    positions = [p for p, row in enumerate(held_out.rows) if row in asked]
    lengths = held_out.lengths
    groups = batches_by_length([lengths[p] for p in positions], config.ablation.batch_size)
    unusable = [r for r in prepared.rejects["eval"] if r.row in asked]
    recorder = Recorder(loaded.vlm, checkpoint.parent)
    batches = LazyBatches(held_out, [[positions[i] for i in group] for group in groups], loaded.inputs.pad_id)
    plan = Plan(
        names,
        config.ablation,
        config.seed,
        requested,
        available=len(prepared.split.eval),
        rejected=count_rejects(tuple(unusable)),
        vocabulary=vocabulary(loaded),
        mean_tokens=mean_tokens(loaded, prepared, checkpoint) if "mean-token" in names else None,
        blind=trained_blind(loaded, prepared, checkpoint) if "blind" in names else None,
        training=count_captions(prepared.train),
    )
    execution = Execution(
        ranks,
        lambda total: progress_bar(total, "check 1", "batch"),
        checkpoint.parent,
        lambda unread: judge_rejects([*unusable, *unread], len(asked), config.data.max_rejected, "held-out"),
    )
    ablation, scores = run_ablation(recorder, batches, plan, execution)
    inside = recorder.over(ranks)
    ablation = with_measures(ablation, scores, recorder, plan, ranks, inside)
    return ablation.model_copy(update={"connector": look_inside(inside, loaded.vlm)}), scores


def job_of(device: str) -> Ranks:
    """Connect the processes of a job, if there are several, and return them; `device` as in `model.device`."""
    PartialState(cpu=device == "cpu")
    return ranks_of_job()


def count_captions(training: Dataset) -> TokenCounts:
    """Count the label tokens of at most `MOST_CAPTIONS` evenly spaced training captions. No image is opened."""
    places = even_choice(len(training), MOST_CAPTIONS)
    return TokenCounts.of(training.text(place).labels_T for place in places)


def vocabulary(loaded: Loaded) -> Vocabulary:
    """Return the language model's tokens as text. In pretraining, EOS separates texts, so a caption may follow it."""
    eos_id = loaded.inputs.prompts.ids.eos
    size = len(loaded.vlm.llm.model.get_input_embeddings().weight)
    return Vocabulary(decoder(loaded.inputs.tokenizer), eos_id, eos_id, size)


def training_of_run(loaded: Loaded, prepared: Prepared, folder: Path) -> Training | None:
    """Return the training log in a checkpoint's folder; None if there is none."""
    records = [r for r in read_records_of_run(folder) if r.step <= loaded.step]
    if not records:
        return None
    last, seconds = records[-1], sum(r.seconds for r in records)
    return Training(
        step=last.step,
        updates=last.updates,
        epochs=last.epoch,
        train_samples=last.samples,
        eval_samples=len(prepared.eval),
        trained_parameters=sum(p.numel() for p in loaded.vlm.connector.parameters()),
        train_loss=last.train_loss,
        eval_loss=last.eval_loss,
        eval_part=last.eval_part,
        seconds=seconds,
        samples_per_second=sum(r.samples for r in records) / max(seconds, 1e-9),
        peak_memory_gb=last.peak_memory_gb,
        curve=[LossPoint(step=r.step, train=r.train_loss, eval=r.eval_loss) for r in records],
        looks=[look for look in read_looks(folder) if look.step <= loaded.step],
        forced=read_forced(folder),
    )
