"""Embedding layers that multiply what their table holds, as Gemma's does: the scale is read through the layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from preflight_world import World, make_world
from qwen3_vlm.models.llm import LanguageModel
from tiny_models import make_batch, make_llm, make_vlm

FACTOR = 11.5


class Scaled(nn.Embedding):
    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * FACTOR


def scale(llm: LanguageModel) -> LanguageModel:
    """The same table, read through a layer that multiplies."""
    table = llm.model.get_input_embeddings()
    layer = Scaled(table.num_embeddings, table.embedding_dim)
    layer.weight = table.weight
    llm.model.set_input_embeddings(layer)
    return llm


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def test_the_scale_of_text_is_what_the_layer_gives() -> None:
    plain, scaled = make_llm().text_rms(), scale(make_llm()).text_rms()
    assert scaled == pytest.approx(FACTOR * plain, rel=1e-6)


def test_without_a_factor_it_is_that_of_the_table_to_the_last_bit() -> None:
    llm = make_llm()
    torch.manual_seed(0)
    llm.model.resize_token_embeddings(20_000)  # more than two slices
    llm = LanguageModel(llm.model)
    weight = llm.model.get_input_embeddings().weight
    total = sum(float(part.pow(2).sum()) for part in weight.split(8192))
    assert llm.text_rms() == float((total / weight.numel()) ** 0.5)


def test_visual_tokens_that_are_normed_to_text_are_on_the_scale_of_scaled_text() -> None:
    vlm = make_vlm(output_norm=True)
    scale(vlm.llm)
    vlm.connector.text_rms = vlm.llm.text_rms()
    batch = make_batch([[9, 10], [11]])
    visual_BQE = vlm.encode(batch).layers[0]
    text_KE = vlm.llm.embed(torch.arange(vlm.llm.vocabulary))
    assert float(visual_BQE.square().mean().sqrt() / text_KE.square().mean().sqrt()) == pytest.approx(1.0, rel=1e-3)


def test_the_preflight_takes_the_layers_factor_for_no_fault(world: World) -> None:
    vlm = world.model(world.config())
    before = {f.code for f in world.find(vlm)}
    scale(vlm.llm)
    flight = world.fly(vlm)
    assert flight.batch and {f.code for f in flight.findings} <= before
