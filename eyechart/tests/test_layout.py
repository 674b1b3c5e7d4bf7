"""The form of image features: learnt from one and two images, taken apart and put together without loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling

from eyechart.models.layout import Layout, LayoutError

FORMS = ("rows", "tiles", "flat", "list", "tuple", "tile list", "output", "added", "deepstack", "deepstack flat")


def features(form: str, images_BQE: torch.Tensor) -> Any:
    """The same features in the forms in which models return them; Q is even, for two tiles."""
    count, tokens, width = images_BQE.shape
    if form == "rows":
        return images_BQE
    if form == "tiles":
        return images_BQE.reshape(2 * count, tokens // 2, width)
    if form == "flat":
        return images_BQE.reshape(-1, width)
    if form == "list":
        return list(images_BQE)
    if form == "tuple":
        return tuple(images_BQE)
    if form == "tile list":
        return list(images_BQE.reshape(2 * count, tokens // 2, width))
    if form == "output":
        return BaseModelOutputWithPooling(
            last_hidden_state=torch.zeros(count, 7, 5), pooler_output=tuple(images_BQE), hidden_states=(torch.zeros(3),)
        )
    if form == "added":  # an attribute that its class has no field for (Gemma 4 in transformers 5.6)
        output = BaseModelOutput(last_hidden_state=torch.zeros(count, 7, 5))
        output.pooler_output = images_BQE
        return output
    if form == "deepstack":
        return (list(images_BQE), [tuple(images_BQE + 1), tuple(images_BQE + 2)])
    return (images_BQE, [(images_BQE + depth).reshape(-1, width) for depth in (1, 2, 3)])


def leaves(tree: Any) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, BaseModelOutput | BaseModelOutputWithPooling):
        return leaves(tree.pooler_output)
    return [leaf for item in tree for leaf in leaves(item)]


def images(count: int, tokens: int = 4, width: int = 3) -> torch.Tensor:
    return torch.arange(count * tokens * width, dtype=torch.float32).reshape(count, tokens, width)


@settings(max_examples=40)
@given(form=st.sampled_from(FORMS), count=st.integers(1, 5), tokens=st.sampled_from([2, 4, 6]), width=st.integers(2, 4))
def test_every_form_comes_apart_into_images_and_together_again(form: str, count: int, tokens: int, width: int) -> None:
    # Widths and numbers of tokens that coincide with numbers of images must not confuse it.
    layout = Layout.learn(*(features(form, images(n, tokens, width)) for n in (1, 2)))
    output = features(form, images(count, tokens, width))
    visual = layout.take(output, count)
    for depth, layer in enumerate(visual.layers):
        torch.testing.assert_close(layer, images(count, tokens, width) + depth)
    again = layout.put(visual)
    assert type(again) is type(output)
    for got, want in zip(leaves(again), leaves(output), strict=True):
        torch.testing.assert_close(got, want)


def test_what_is_not_handed_on_is_none_when_put_together() -> None:
    layout = Layout.learn(*(features("output", images(n)) for n in (1, 2)))
    again = layout.put(layout.take(features("output", images(3)), 3))
    assert again.last_hidden_state is None and again.hidden_states is None


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (torch.zeros(4, 3), torch.zeros(6, 3)),  # another number of tokens for the second image
        (torch.zeros(4, 3), torch.zeros(4, 3)),  # nothing counts the images
        ([torch.zeros(4, 3)], [torch.zeros(4, 3), torch.zeros(5, 3)]),
        ([torch.zeros(4, 3)], [torch.zeros(4, 3)] * 3),
        (["text"], ["text", "text"]),
        ([], []),
        (None, None),
    ],
)
def test_a_form_that_is_not_understood_is_an_error(one: Any, two: Any) -> None:
    with pytest.raises(LayoutError):
        Layout.learn(one, two)


@pytest.mark.parametrize("form", ["rows", "flat", "list"])
def test_another_number_of_tokens_is_an_error(form: str) -> None:
    layout = Layout.learn(*(features(form, images(n)) for n in (1, 2)))
    with pytest.raises(LayoutError, match="expected features of shape"):
        layout.take(features(form, images(2, tokens=6)), 2)
