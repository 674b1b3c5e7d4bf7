"""Random-weight backbones of the real classes, small enough for unit tests."""

from __future__ import annotations

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM, SiglipVisionConfig, SiglipVisionModel

from eyechart.data.images import ImageSpec
from eyechart.seam import IGNORE_INDEX, Batch, CollateStats
from qwen3_vlm.models.connector import Connector, ConnectorShape
from qwen3_vlm.models.llm import LanguageModel
from qwen3_vlm.models.vision import VisionTower
from qwen3_vlm.models.vlm import VLM

START, PATCH, END, EOS, VOCABULARY = 1, 2, 3, 0, 50
LATENTS, SIDE = 4, 16


def make_llm(seed: int = 0, tied: bool = True) -> LanguageModel:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=EOS,
    )
    model = Qwen3ForCausalLM(config)
    # Larger weights than the default initialisation: otherwise every output is nearly the same and tests see nothing.
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return LanguageModel(model)


def make_tower(seed: int = 1) -> VisionTower:
    torch.manual_seed(seed)
    config = SiglipVisionConfig(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=8,
    )
    spec = ImageSpec(height=SIDE, width=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3, resample=2, rescale=1 / 255)
    return VisionTower(SiglipVisionModel(config), spec)


def make_vlm(seed: int = 2, **options: object) -> VLM:
    tower, llm = make_tower(), make_llm()
    torch.manual_seed(seed)
    shape = ConnectorShape(24, 32, tower.patches, LATENTS, 2, 2, 8, 2, **options)  # type: ignore[arg-type]
    return VLM(tower, Connector(shape, llm.text_rms()), llm, PATCH, EOS)


def make_batch(captions: list[list[int]], prompt: tuple[int, ...] = (7, 8), seed: int = 3) -> Batch:
    """Rows `prompt, image block, caption, EOS`, padded with EOS, with random images."""
    block = [START, *[PATCH] * LATENTS, END]
    rows = [[*prompt, *block, *caption, EOS] for caption in captions]
    longest = max(map(len, rows))
    first = len(prompt) + len(block)
    ids_BT = torch.tensor([row + [EOS] * (longest - len(row)) for row in rows])
    labels_BT = ids_BT.clone()
    positions_T = torch.arange(longest)
    lengths_B = torch.tensor([len(row) for row in rows])
    labels_BT[(positions_T < first)[None] | (positions_T[None] >= lengths_B[:, None])] = IGNORE_INDEX
    block_BT = ((positions_T >= len(prompt)) & (positions_T < first))[None].expand(len(rows), -1)
    generator = torch.Generator().manual_seed(seed)
    pixels_BCHW = torch.randint(0, 256, (len(rows), 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    stats = CollateStats(samples=len(rows), label_tokens=sum(len(c) + 1 for c in captions))
    return Batch((), ids_BT, labels_BT, lengths_B, block_BT, pixels_BCHW, None, stats)
