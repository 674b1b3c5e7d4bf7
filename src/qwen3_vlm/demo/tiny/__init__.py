"""Tiny backbones for any LLaVA-format data set: a real SigLIP tower and a real Qwen3, small enough for two CPU cores.

    python -m qwen3_vlm.demo.tiny                                             # remake assets/tiny
    python -m qwen3_vlm.demo.tiny --data rows.json --image-root pictures --output outputs/backbones

They replace the real ones in tests and trials: the same classes, the same loading path, a thousandth of the size.
"""
