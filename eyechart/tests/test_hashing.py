"""Weights have the same hashes in every precision that rounds to the same values, in a file and in memory."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from eyechart.models.checkpoint import origin_of
from eyechart.models.hashing import HashedFiles, combined, model_hashes, name_in_files, tensor_hash, weight_files


@given(st.lists(st.floats(-1e4, 1e4, width=16), min_size=1, max_size=40), st.integers(0, 39))
def test_a_copy_in_another_precision_has_the_same_hash_and_another_value_has_another(
    values: list[float], place: int
) -> None:
    rounded = torch.tensor(values, dtype=torch.bfloat16)
    copies = [rounded.float(), rounded.double().float(), rounded]
    assert len({tensor_hash(copy) for copy in copies}) == 1
    changed = rounded.float()
    changed[place % len(values)] += 1 + changed.abs().max()
    assert tensor_hash(changed) != tensor_hash(rounded)


def test_the_shape_is_part_of_a_hash_and_large_tensors_are_hashed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.arange(24.0)
    assert tensor_hash(values.view(4, 6)) != tensor_hash(values.view(6, 4))
    whole = tensor_hash(values)
    monkeypatch.setattr("eyechart.models.hashing._AT_ONCE", 5)
    assert tensor_hash(values) == whole
    values[-1] += 1
    assert tensor_hash(values) != whole


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("prefix", ["", "model."], ids=["same names", "with a prefix"])
def test_hashes_made_while_reading_are_those_of_the_loaded_model(
    tmp_path: Path, dtype: torch.dtype, prefix: str
) -> None:
    model = small_model()
    for parameter in model.parameters():  # values that every dtype represents
        parameter.data = parameter.data.mul(8).round().div(8)
    save_file({f"{prefix}{k}": v.to(dtype) for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
    found = copy.deepcopy(HashedFiles(str(tmp_path))).of(model)
    assert found == model_hashes(model) and set(found) == set(model.state_dict())


def test_a_weight_that_the_files_do_not_have_is_hashed_in_memory(tmp_path: Path) -> None:
    model = small_model()
    state = model.state_dict()
    save_file({"0.weight": state["0.weight"], "1.weight": torch.zeros(7)}, tmp_path / "model.safetensors")
    assert HashedFiles(str(tmp_path)).of(model) == model_hashes(model)


def test_files_are_found_in_shards_and_a_broken_file_leaves_hashing_to_the_memory(tmp_path: Path) -> None:
    model = small_model()
    state = model.state_dict()
    for number, names in enumerate((["0.weight", "0.bias"], ["1.weight", "1.bias"])):
        save_file({name: state[name] for name in names}, tmp_path / f"part-{number}.safetensors")
    index = '{"weight_map": {"0.weight": "part-0.safetensors", "1.weight": "part-1.safetensors"}}'
    (tmp_path / "model.safetensors.index.json").write_text(index, encoding="utf-8")
    assert [file.name for file in weight_files(str(tmp_path))] == ["part-0.safetensors", "part-1.safetensors"]
    (tmp_path / "part-1.safetensors").write_bytes(np.zeros(50, np.uint8).tobytes())
    assert HashedFiles(str(tmp_path)).of(model) == model_hashes(model)
    (tmp_path / "model.safetensors.index.json").write_text("{", encoding="utf-8")
    assert weight_files(str(tmp_path)) == [] == weight_files("no/such-model") == weight_files("not a name//of any")


def test_one_hash_of_a_model_changes_with_any_weight_or_name() -> None:
    assert combined({"a": "1", "b": "2"}) == combined({"b": "2", "a": "1"})
    assert len({combined(h) for h in ({"a": "1", "b": "2"}, {"a": "1", "b": "3"}, {"a": "1", "c": "2"})}) == 3


def test_a_weight_of_a_vision_tower_is_not_taken_for_that_of_the_text_tower_beside_it() -> None:
    beside = {"text_model.layers.0.weight", "vision_model.layers.0.weight", "other.layers.1.weight"}
    assert name_in_files("layers.0.weight", beside) == "vision_model.layers.0.weight"
    assert name_in_files("model.text_model.layers.0.weight", beside) == "text_model.layers.0.weight"
    assert name_in_files("layers.0.weight", beside | {"audio.layers.0.weight"}) is None


def test_weights_that_have_changed_are_told_from_weights_that_the_files_do_not_have(tmp_path: Path) -> None:
    model, file = small_model(), tmp_path / "model.safetensors"
    weights = model.state_dict()
    save_file({f"model.{name}": value for name, value in weights.items() if name != "1.bias"}, file)
    assert (origin_of(model, [file]).differ, origin_of(model, [file]).absent) == ((), ("1.bias",))
    model[0].weight.data[0], model[0].bias.data = model[0].weight.data[0] + 1, torch.ones(3)
    assert origin_of(model, [file]).differ == ("0.weight", "0.bias")
