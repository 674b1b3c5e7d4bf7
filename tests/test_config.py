"""YAML to a validated config: every mistake has one line that names the key and says what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from qwen3_vlm.config import Config, apply_overrides, load_config, parse_config

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"trian": {}}, r"unknown key `trian`; did you mean `train`\?"),
        ({"train": {"learning_rate": 1}}, r"unknown key `train.learning_rate`; known: batch_size, "),
        ({"train": {"epoch": 1}}, r"unknown key `train.epoch`; did you mean `train.epochs`\?"),
        ({"train": 3}, r"`train` is a section of settings, got 3"),
        ({"train": {"epochs": "many"}}, r"train.epochs: expected an integer, got 'many'"),
        ({"train": {"epochs": 2.5}}, r"train.epochs: .*got 2.5"),
        ({"train": {"epochs": 0}}, r"train.epochs: .*greater than or equal to 1, got 0"),
        ({"train": {"lr": 0}}, r"train.lr: .*greater than 0, got 0"),
        ({"train": {"lr": -1}, "seed": -1}, r"seed: .*got -1; train.lr: .*got -1"),
        (
            {"train": {"schedule": "cosin"}},
            r"train.schedule: .*'cosine', 'linear', 'one-cycle' or 'constant', got 'cosin'",
        ),
        ({"data": {"eval_ratio": 1.0}}, r"data.eval_ratio: .*less than 1, got 1.0"),
        ({"model": {"precision": "fp16"}}, r"model.precision: .*'fp32' or 'bf16', got 'fp16'"),
    ],
)
def test_unknown_keys_and_wrong_values_name_the_key_and_what_would_be_right(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_config(tree, "run.yaml")
    assert str(caught.value).startswith("run.yaml: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"prompt": {"template": "no image"}}, r"prompt.template: expected exactly one of `\{human\}` and `<image>`"),
        ({"prompt": {"template": "{human}<image>"}}, r"prompt.template: expected exactly one"),
        ({"prompt": {"caption_request": "what?"}}, r"prompt.caption_request: expected one `<image>`, got 'what\?'"),
        (
            {"data": {"max_seq_len": 66}, "connector": {"latents": 64}},
            r"data.max_seq_len: 66 leaves no room .*block of 66 tokens \(connector.latents 64\)",
        ),
        (
            {"data": {"max_seq_len": 131}, "prompt": {"image_block": "legacy"}},
            r"data.max_seq_len: 131 leaves no room .*block of 131",
        ),
        (
            {"coverage": {"truncated_warn": 3, "truncated_fail": 2}},
            r"coverage.truncated_fail \(2.0\) is below coverage.truncated_warn \(3.0\)",
        ),
        ({"train": {"betas": [0.9, 1.0]}}, r"train.betas: the second must be in \[0, 1\), got 1.0"),
        ({"train": {"keep_every": 100}}, r"train.keep_every: without train.keep_last nothing is deleted"),
        ({"train": {"lr": float("inf")}}, r"train.lr: .*finite number"),
        ({"ablation": {"margin_shuffled": float("nan")}}, r"ablation.margin_shuffled: .*finite number"),
        ({"train": {"betas": [0.9]}}, r"train.betas.1: Field required"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config(tree, "run.yaml")


def test_a_sequence_one_token_longer_than_the_image_block_is_accepted() -> None:
    assert parse_config({"data": {"max_seq_len": 67}}, "x").image_block_tokens == 66
    legacy = {"data": {"max_seq_len": 132}, "prompt": {"image_block": "legacy"}}
    assert parse_config(legacy, "x").image_block_tokens == 131, "66 tokens with a space between any two"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", r"not valid YAML"),
        ("- 1\n- 2\n", r"expected a mapping of sections at the top, got list"),
        ("just words", r"expected a mapping of sections at the top, got str"),
    ],
)
def test_a_broken_file_is_one_line_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"run.yaml: {message}") as caught:
        load_config(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_file_lists_the_configs_that_are_there(tmp_path: Path) -> None:
    write(tmp_path, "", "tiny.yaml")
    with pytest.raises(ValueError, match=r"ran.yaml: no such config file; in .*: tiny.yaml"):
        load_config(tmp_path / "ran.yaml")
    with pytest.raises(ValueError, match=r"cannot read the config \(Is a directory\)"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epochs: yes}", "train.epochs: expected an integer, got 'yes'"),
        ("train: {epochs: true}", "train.epochs: expected an integer, got True"),
        ("train:\n  epochs: 1:30", "train.epochs: expected an integer, got '1:30'"),
        ("train: {epochs: 010}", "train.epochs: expected an integer, got '010'"),
        ("train: {epochs: '3'}", "train.epochs: expected an integer without quotes, got '3'"),
        ("train: {lr: yes}", "train.lr: expected a number, got 'yes'"),
        ("train: {betas: [0.9, yes]}", "train.betas: expected a number, got "),
        ("data: {max_samples: off}", "data.max_samples: expected an integer, got 'off'"),
        ("ablation: {margin_zero: true}", "ablation.margin_zero: expected a number, got True"),
        ("train: {epochs: 3}\ntrain: {lr: 1}", "not valid YAML: lines 1 and 2: the key `train` occurs twice"),
    ],
)
def test_a_number_is_never_read_into_a_word(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(write(tmp_path, text))


@pytest.mark.parametrize("text", ["train: {lr: 1e-3}", "train: {lr: 0.001}", "train: {lr: 1.0E-3}"])
def test_every_usual_form_of_a_number_is_one(tmp_path: Path, text: str) -> None:
    assert load_config(write(tmp_path, text)).train.lr == 0.001


def test_words_for_yes_are_booleans_where_a_boolean_is_expected(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "connector: {vision_ln: yes}")).connector.vision_ln is True


def test_a_refusal_shows_at_most_a_line_of_a_value(tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        load_config(write(tmp_path, f"seed: {'x' * 10_000}\nthreads: [{'1, ' * 2000}]"))
    assert len(str(caught.value)) < 500


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES, lr=st.floats(1e-300, 1e300), seed=st.integers(0, 2**43), most=st.none() | st.integers(1, 10**9))
@example(name="1e5", lr=1e-5, seed=0, most=None)
@example(name="010", lr=1e16, seed=0, most=None)
def test_a_config_as_we_write_it_reads_back_equal(
    tmp_path: Path, name: str, lr: float, seed: int, most: int | None
) -> None:
    tree = {"output_dir": name, "seed": seed, "train": {"lr": lr}, "data": {"layout": name, "max_samples": most}}
    config = parse_config(tree, "x")
    assert load_config(write(tmp_path, config.to_yaml())) == config


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "")) == Config()


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"output_dir: \xff\xfe")
    with pytest.raises(ValueError, match="run.yaml: not valid YAML"):
        load_config(path)


def test_overrides_win_over_the_file_and_values_are_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, "train:\n  lr: 1\n  epochs: 7\n")
    flags = ["--train.lr", "1e-3", "--data.max-samples=null", "--train.betas", "[0.5, 0.6]", "--output_dir", "x y"]
    config = load_config(path, flags)
    assert (config.train.lr, config.train.epochs, config.data.max_samples) == (1e-3, 7, None)
    assert (config.train.betas, config.output_dir) == ((0.5, 0.6), "x y")


@pytest.mark.parametrize(("word", "value"), [("on", "on"), ("off", "off"), ("auto", "auto"), ("'off'", "off")])
def test_on_and_off_are_words_although_yaml_reads_them_as_booleans(tmp_path: Path, word: str, value: str) -> None:
    assert load_config(write(tmp_path, f"data:\n  cache_features: {word}\n")).data.cache_features == value
    assert load_config(write(tmp_path, ""), ["--data.cache_features", word]).data.cache_features == value


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train.lr"], r"--train.lr: expected a value after it"),
        (["train.lr", "1"], r"expected an override such as `--train.lr 1e-3`, got 'train.lr'"),
        (["--train.lrr", "1"], r"unknown key `train.lrr`; did you mean `train.lr`"),
        (["--seed.x", "1"], r"`seed` is not a section of the config|unknown key"),
        (["--train.lr", "[1"], r"--train.lr: not a value: '\[1'"),
        (["--train.lr", "-1"], r"with --train.lr -1: train.lr: .*greater than 0"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_config(write(tmp_path, "seed: 1\n"), flags)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_the_shipped_configs_survive_the_round_trip_through_yaml(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert load_config(write(tmp_path, config.to_yaml())) == config


def test_the_trial_config_is_the_runbooks() -> None:
    config = load_config(next(p for p in CONFIGS if p.stem == "stage1_align_trial"))
    assert (config.model.llm, config.model.vision) == ("Qwen/Qwen3-8B-Base", "google/siglip2-so400m-patch14-384")
    assert (config.data.json_file, config.data.image_root) == (
        "data/llava_pretrain/blip_laion_cc_sbu_558k.json",
        "data/llava_pretrain",
    )
    assert (config.data.max_seq_len, config.data.max_samples, config.data.eval_ratio) == (512, 5_000, 0.02)
    train, connector = config.train, config.connector
    assert (train.batch_size, train.accumulation, train.epochs, train.lr, config.seed) == (4, 4, 3, 1e-4, 42)
    assert (connector.latents, connector.depth, connector.heads, connector.head_dim) == (64, 2, 8, 64)
    assert (connector.mlp_ratio, connector.vision_ln, connector.key_positions, connector.output_norm) == (
        4,
        *[False] * 3,
    )


def leaves(tree: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found = []
    for key, value in tree.items():
        found += leaves(value, (*prefix, key)) if isinstance(value, dict) else [((*prefix, key), value)]
    return found


OTHER: dict[tuple[str, ...], Any] = {
    ("model", "attention"): "eager",
    ("model", "precision"): "bf16",
    ("model", "device"): "cpu",
    ("prompt", "template"): "<image>\n",
    ("prompt", "image_block"): "legacy",
    ("prompt", "caption_request"): "<image>",
    ("data", "world"): "digits",
    ("data", "eval_json"): "eval.json",
    ("data", "cache_features"): "off",
    ("data", "eval_ratio"): 0.5,
    ("data", "max_rejected"): 0.5,
    ("train", "schedule"): "linear",
    ("train", "tracker"): "none",
    ("train", "ablate_every"): 100,
    ("train", "warmup_ratio"): 0.5,
    ("train", "betas"): [0.5, 0.5],
    ("coverage", "truncated_warn"): 0.5,
}


@pytest.mark.parametrize("path", [path for path, _ in leaves(Config().model_dump(mode="json"))], ids=".".join)
def test_the_fingerprint_changes_with_any_field(path: tuple[str, ...]) -> None:
    tree = Config().model_dump(mode="json")
    node = tree
    for section in path[:-1]:
        node = node[section]
    value = node[path[-1]]
    if path in OTHER:
        node[path[-1]] = OTHER[path]
    elif isinstance(value, bool):
        node[path[-1]] = not value
    elif isinstance(value, str):
        node[path[-1]] = value + "x"
    else:
        node[path[-1]] = 7 if value is None else value + 1
    if path == ("train", "keep_every"):
        tree["train"]["keep_last"] = 1
    changed = Config.model_validate(tree)
    assert changed.fingerprint() != Config().fingerprint()
    assert Config.model_validate(Config().model_dump(mode="json")).fingerprint() == Config().fingerprint()


def test_every_field_says_what_it_is() -> None:
    def undocumented(section: Any, prefix: str) -> list[str]:
        found = []
        for name, field in section.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and hasattr(inner, "model_fields"):
                found += undocumented(inner, f"{prefix}{name}.")
            elif not field.description:
                found.append(f"{prefix}{name}")
        return found

    assert undocumented(Config, "") == []


def test_to_yaml_holds_every_default_and_non_latin_text_as_it_is() -> None:
    config = parse_config({"prompt": {"template": "описание {human}\n"}}, "x")
    tree = yaml.safe_load(config.to_yaml())
    assert tree == config.model_dump(mode="json")
    assert "описание" in config.to_yaml()


@pytest.mark.parametrize(("text", "expected"), [("off", "off"), ("log", "log"), ("250", 250)])
def test_looks_are_off_log_or_a_number_of_steps(text: str, expected: str | int) -> None:
    config = apply_overrides({}, ["--train.ablate_every", text], "x")
    assert config.train.ablate_every == expected
    assert parse_config(yaml.safe_load(config.to_yaml()), "x").train.ablate_every == expected


@pytest.mark.parametrize("text", ["0", "-3", "on", "true", "1.5", "often", "null"])
def test_other_plans_of_looks_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="train.ablate_every: expected off, log, or a number of steps from 1 to 2"):
        apply_overrides({}, ["--train.ablate_every", text], "x")
