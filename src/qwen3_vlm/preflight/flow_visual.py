"""First stages of the walk: pixels, features and visual tokens, as computed by training and by scoring."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from eyechart.faults.changes import random_like
from eyechart.faults.experiments import image_routes, relative, sensitivity
from eyechart.faults.image_findings import diagnose_images, diagnose_repeats
from eyechart.faults.prepared_pixels import compare
from eyechart.faults.table import finding
from eyechart.results import Finding
from eyechart.seam import VisualTokens
from qwen3_vlm.models.vlm import VLM
from qwen3_vlm.preflight.hooks import watched
from qwen3_vlm.preflight.walk import Walk, many_of, non_finite, unused

# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_SAME = 0.02
"""Largest relative difference between two tensors that should be equal; bfloat16 rounding stays below it."""
_TOWER_FIX = (
    "if few images are affected, look at their pixels; if all are, look for NaN in the weights of model.vision, then "
    "try model.precision fp32"
)
# measured: benchmarks/faults.py on scenes, digits and own drawings: 0 of 79
_UNREAD = 0.25
"""Largest share of patches that may affect no visual token. The attention of a trained resampler can be that sharp."""


@torch.no_grad()
def pixels_stage(walk: Walk) -> list[Finding]:
    """Check the path from the image file to the tower, and from the tower to the features."""
    vlm, batch = walk.vlm, walk.batch
    with watched(vlm) as seen:
        features_BPV = walk.features_BPV
    if not seen.pixels:
        return [unused("the vision tower is never called for a batch of images", tower_calls=0)]
    found = compare(torch.cat(seen.pixels), walk.references, [row.raw for row in walk.rows])
    if found:
        return found
    if not all(bool(torch.isfinite(given_BPV).all()) for given_BPV in seen.features):
        bad = [
            row.sample.row
            for row, x_PV in zip(walk.rows, torch.cat(seen.features), strict=False)
            if not x_PV.isfinite().all()
        ]
        # Report this even if a later step replaces the output by zeros.
        return [
            non_finite(
                f"the vision tower's output for {many_of(len(bad), len(walk.rows))} images (row {bad[0]})", _TOWER_FIX
            )
        ]
    if not bool(features_BPV.isfinite().all()):
        return [non_finite("the tower's features", _TOWER_FIX)]
    # This check precedes the comparisons of connector outputs, which could not show it: the output of an untrained
    # connector hardly depends on the image.
    found = diagnose_images(image_routes(lambda given: VisualTokens((vlm.features(given),)), batch), "tower's features")
    return found or (_changed(features_BPV, torch.cat(seen.features)) if seen.features else [])


def _changed(got_BPV: Tensor, given_BPV: Tensor) -> list[Finding]:
    """Compare the features that are passed on with the last hidden state of the tower for the same pixels."""
    if got_BPV.shape == given_BPV.shape and relative(got_BPV, given_BPV) <= _SAME:
        return []
    if got_BPV.shape != given_BPV.shape:
        how = f"their shape is {list(got_BPV.shape)}, the tower gave {list(given_BPV.shape)}"
    elif relative(got_BPV, got_BPV.mean(dim=1, keepdim=True).expand_as(got_BPV)) < _SAME:
        how = "all patches of an image have the same values"
    elif _same_patches(got_BPV, given_BPV):
        how = "the patches are those of the tower, in another order"
    else:
        how = f"they differ by {relative(got_BPV, given_BPV):.2g} times their size"
    return [
        finding(
            "features-altered",
            f"the connector does not receive the output of the vision tower's last layer for these images: {how}",
            "pass the tower's `last_hidden_state` on unchanged: look for a mean or pooling over patches, another "
            "layer, a reordering, or noise between tower and connector",
            relative_difference=relative(got_BPV, given_BPV) if got_BPV.shape == given_BPV.shape else None,
        )
    ]


def _same_patches(got_BPV: Tensor, given_BPV: Tensor) -> bool:
    nearest_BP = torch.cdist(got_BPV.float(), given_BPV.float()).min(dim=2).values
    return bool((nearest_BP <= _SAME * given_BPV.float().norm(dim=2).mean()).all())


def _constant(vlm: VLM, features_BPV: Tensor) -> list[Finding]:
    """Report visual tokens that never change, and whether the connector is not called or its last stage is constant."""
    far_BPV = random_like(VisualTokens((features_BPV.float(),)), torch.Generator().manual_seed(0)).layers[0]
    latents = [vlm.connector.resample(values) for values in (features_BPV.float(), far_BPV.to(vlm.device))]
    ends = [vlm.connector.project(values) for values in latents]
    if not torch.equal(*latents) and torch.equal(*ends):
        return [
            finding(
                "collapsed",
                "the projector gives the same visual tokens for any output of the resampler: its hidden units are "
                "always off or its weights are zero, and only a bias is left",
                "look at how the projector's weights and biases are set at the start (PyTorch's own initialisation is "
                "suitable); if they were correct then, training has deactivated it: lower train.lr",
                stage="projector",
            )
        ]
    return [
        unused(
            "the visual tokens do not change when the tower's features do",
            "check that the connector is called with the tower's features, and that its weights are not zero",
            visual_change=0.0,
        )
    ]


def _unread_patches(vlm: VLM, features_BPV: Tensor) -> int:
    """Return the number of patches that get no gradient from any visual token in any sample of the batch."""
    with torch.enable_grad():
        leaf_BPV = features_BPV.detach().clone().requires_grad_()
        visual_BQE = vlm.visual(leaf_BPV).float()
        if not visual_BQE.requires_grad:
            return 0  # the check of gradients reports a broken path
        weights = torch.randn(visual_BQE.shape, generator=torch.Generator().manual_seed(0)).to(visual_BQE.device)
        return int((sensitivity((visual_BQE * weights).sum(), leaf_BPV) == 0).all(dim=0).sum())


@torch.no_grad()
def connector_stage(walk: Walk) -> list[Finding]:
    """Check the path from features to visual tokens, as computed by training and by scoring."""
    vlm, batch, features_BPV = walk.vlm, walk.batch, walk.features_BPV
    visual_BQE = vlm.visual(features_BPV)
    if not bool(torch.isfinite(visual_BQE).all()):
        fix = "look for NaN in the connector's weights, then in the tower's features; then try model.precision fp32"
        return [non_finite("the visual tokens (the connector's output)", fix)]
    with_features = replace(batch, pixels_BCHW=None, features_BPV=features_BPV)
    routes = image_routes(lambda given: VisualTokens((vlm.visual(vlm.features(given)),)), with_features)
    if found := diagnose_repeats({"visual tokens": routes.repeated}):
        return found
    if routes.by_image is not None and not any(routes.by_image):
        return _constant(vlm, features_BPV)
    unread = _unread_patches(vlm, features_BPV)
    if unread > _UNREAD * features_BPV.shape[1]:
        return [
            unused(
                f"{unread} of the {features_BPV.shape[1]} patches of an image change no visual token",
                "check the resampler's attention for a mask (inverted, or made for another length), and "
                "for patches that are dropped before it",
                unread=unread,
                patches=features_BPV.shape[1],
            )
        ]
    scored = "visual tokens that encode() makes for scoring"
    if found := diagnose_images(routes) or diagnose_images(image_routes(vlm.encode, batch), scored):
        return found
    size = float(visual_BQE.float().pow(2).mean().sqrt()) or 1.0
    apart = float((vlm.encode(batch).layers[0].float() - visual_BQE.float()).abs().max()) / size
    if apart > 0.1:
        return [
            finding(
                "connector-not-loaded",
                "scoring and training compute different visual tokens for the same image (they differ by up to "
                f"{apart:.2g} "
                "times their RMS)",
                "let encode() and the training step call the same tower and connector",
                relative_difference=apart,
            )
        ]
    return []
