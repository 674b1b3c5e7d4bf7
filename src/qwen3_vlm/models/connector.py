"""Defines the connector, which is the only part of the model that is trained and saved in checkpoints.

Dimension suffixes: B batch, P patches of the tower, V width of the tower, Q latents (visual tokens per image),
D = heads * head_dim width of the resampler, E width of the language model's embeddings.

    features_BPV -> [vision_ln] -> resampler (Perceiver-style cross-attention) -> [B,Q,D] -> projector -> visual_BQE

The names of the parameters (`resampler.*`, `projector.*`, `vision_ln.*`) are part of the checkpoint format. If one of
them is renamed, existing checkpoints can no longer be loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

_ATTENTION_START = 0.1


@dataclass(frozen=True)
class ConnectorShape:
    """The dimensions and options that determine the connector's parameters and its computation.

    The weights of a connector can be loaded into any other connector with an equal `ConnectorShape`.

    Attributes:
        vision_width: V, the hidden size of the vision tower.
        text_width: E, the hidden size of the language model.
        patches: P, the number of patch features per image; used only if `key_positions` is true.
        latents: Q, the number of visual tokens per image.
        depth: the number of resampler layers.
        heads: the number of attention heads in the resampler.
        head_dim: the width of one head; the width of the resampler is heads * head_dim.
        mlp_ratio: the hidden width of the projector divided by E.
        vision_ln: whether a trained LayerNorm is applied to the tower's features.
        key_positions: whether learned position embeddings are added to the projected patches. Without them, the
            resampler has only the position information that is already in the tower's features.
        output_norm: whether every visual token is scaled to the RMS of the language model's text embeddings.
    """

    vision_width: int
    text_width: int
    patches: int
    latents: int
    depth: int
    heads: int
    head_dim: int
    mlp_ratio: float
    vision_ln: bool = False
    key_positions: bool = False
    output_norm: bool = False


class ResamplerLayer(nn.Module):
    """A cross-attention layer: the latents attend to the patches, and an MLP follows. Both are residual."""

    def __init__(self, width: int, heads: int) -> None:
        """Build a layer of the given width and number of attention heads."""
        super().__init__()
        self.ln1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        # The scale of 0.1 makes the initial output almost independent of the image. With PyTorch's default scale, the
        # output of an untrained connector varies randomly with the image. Check 1 (which compares losses with and
        # without the picture) would then need more samples to show that this variation is not information.
        with torch.no_grad():
            self.attn.out_proj.weight.mul_(_ATTENTION_START)
        self.ln2 = nn.LayerNorm(width)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, latents_BQD: Tensor, keys_BPD: Tensor) -> Tensor:
        """Update the latents by attention to the patches: [B,Q,D] and [B,P,D] -> [B,Q,D]."""
        attended_BQD, _ = self.attn(self.ln1(latents_BQD), keys_BPD, keys_BPD, need_weights=False)
        latents_BQD = latents_BQD + attended_BQD
        hidden_BQD: Tensor = self.ff(self.ln2(latents_BQD))
        return latents_BQD + hidden_BQD


class Resampler(nn.Module):
    """Reduces P patch features to Q latents: learned queries, the latents, attend to the projected patches."""

    def __init__(self, shape: ConnectorShape) -> None:
        """Build the resampler. Latents are initialised from N(0, 1), and key positions from 0.3 * N(0, 1)."""
        super().__init__()
        width = shape.heads * shape.head_dim
        self.proj_in = nn.Linear(shape.vision_width, width)
        self.latents = nn.Parameter(torch.randn(shape.latents, width))
        self.layers = nn.ModuleList(ResamplerLayer(width, shape.heads) for _ in range(shape.depth))
        self.key_positions = nn.Parameter(0.3 * torch.randn(shape.patches, width)) if shape.key_positions else None

    def forward(self, features_BPV: Tensor) -> Tensor:
        """Turn patch features [B,P,V] into latents [B,Q,D]."""
        keys_BPD: Tensor = self.proj_in(features_BPV)
        if self.key_positions is not None:
            keys_BPD = keys_BPD + self.key_positions
        latents_BQD = self.latents.expand(features_BPV.shape[0], -1, -1)
        for layer in self.layers:
            latents_BQD = layer(latents_BQD, keys_BPD)
        return latents_BQD


class Projector(nn.Module):
    """A two-layer MLP from the resampler's width to the language model's embedding width."""

    def __init__(self, shape: ConnectorShape) -> None:
        """Build the projector with the widths in `shape`."""
        super().__init__()
        width, hidden = shape.heads * shape.head_dim, int(shape.mlp_ratio * shape.text_width)
        self.net = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, shape.text_width))

    def forward(self, latents_BQD: Tensor) -> Tensor:
        """Project latents [B,Q,D] to visual tokens [B,Q,E]."""
        visual_BQE: Tensor = self.net(latents_BQD)
        return visual_BQE


class Connector(nn.Module):
    """Turns tower features into visual tokens for the language model."""

    def __init__(self, shape: ConnectorShape, text_rms: float = 1.0) -> None:
        """Build the connector.

        Args:
            shape: the connector's dimensions and options.
            text_rms: the RMS of the language model's text embeddings; used only if `shape.output_norm` is true. The
                value is not saved in checkpoints, because it is always computed from the frozen language model.
        """
        super().__init__()
        self.shape = shape
        self.text_rms = text_rms
        self.vision_ln = nn.LayerNorm(shape.vision_width) if shape.vision_ln else None
        self.resampler = Resampler(shape)
        self.projector = Projector(shape)

    def forward(self, features_BPV: Tensor) -> Tensor:
        """Turn tower features [B,P,V] into visual tokens [B,Q,E].

        Raises:
            ValueError: the features do not have width V or, if `key_positions` is true, not P patches.
        """
        return self.project(self.resample(features_BPV))

    def resample(self, features_BPV: Tensor) -> Tensor:
        """Apply only the first stage: the optional LayerNorm and the resampler, [B,P,V] -> [B,Q,D]."""
        _, patches, width = features_BPV.shape
        if width != self.shape.vision_width:
            raise ValueError(
                f"the connector was built for tower features of width {self.shape.vision_width}, got {width}: "
                "use the vision tower that the connector was trained with"
            )
        if self.shape.key_positions and patches != self.shape.patches:
            raise ValueError(
                f"the connector has key positions for {self.shape.patches} patches, got {patches}: "
                "train and evaluate at the same image size"
            )
        if self.vision_ln is not None:
            features_BPV = self.vision_ln(features_BPV)
        latents_BQD: Tensor = self.resampler(features_BPV)
        return latents_BQD

    def project(self, latents_BQD: Tensor) -> Tensor:
        """Apply only the second stage: the projector and the optional output normalisation, [B,Q,D] -> [B,Q,E]."""
        visual_BQE: Tensor = self.projector(latents_BQD)
        if self.shape.output_norm:
            rms = visual_BQE.float().pow(2).mean(-1, keepdim=True).add(1e-6).rsqrt()
            visual_BQE = visual_BQE * (rms * self.text_rms).to(visual_BQE.dtype)
        return visual_BQE


def fresh_connector(shape: ConnectorShape, seed: int, text_rms: float) -> Connector:
    """Return an untrained connector on the CPU. The initial weights depend only on the shape and the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Connector(shape, text_rms)
