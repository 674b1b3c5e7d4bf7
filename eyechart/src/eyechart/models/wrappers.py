"""Finds the model inside the wrappers that trainers put around it, such as DDP."""

from __future__ import annotations

from torch import nn

from eyechart.exits import InputError

_WRAPPERS = ("DataParallel", "DistributedDataParallel", "DeepSpeedEngine", "PipelineEngine")
_MOST = 8


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the transformers model that is inside DDP, `torch.compile`, PEFT or DeepSpeed wrappers.

    The `forward` of a wrapper accepts any argument, so an argument that the model itself does not accept would not be
    noticed. PEFT adapters that change layers, such as LoRA, are part of the inner model and stay active.

    Raises:
        InputError: a wrapper does more than pass its arguments to the model (PEFT with prompt learning, or FSDP 1).
    """
    for _ in range(_MOST):
        kinds = {kind.__name__ for kind in type(model).__mro__}
        if "FullyShardedDataParallel" in kinds:
            raise InputError(
                "model: it is wrapped by FullyShardedDataParallel, whose parts cannot be called one by one",
                "use fully_shard (FSDP 2), or pass the model before it is wrapped",
            )
        if "PeftModel" in kinds:
            if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
                raise InputError(
                    "model: it is a PEFT model with prompt learning, which adds tokens to every row",
                    "pass a model whose adapters change layers, such as LoRA, or the base model",
                )
            inner = model.get_base_model()  # type: ignore[operator]  # a method of PeftModel
        elif hasattr(model, "_orig_mod"):
            inner = model._orig_mod
        else:
            inner = getattr(model, "module", None) if kinds & set(_WRAPPERS) else None
        if not isinstance(inner, nn.Module):
            return model
        model = inner
    raise InputError(f"model: expected at most {_MOST} nested wrappers", "pass the model inside them")
