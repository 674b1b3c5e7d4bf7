"""Tiny backbones for any LLaVA-format data set: a real SigLIP tower and a real Qwen3, small enough for two CPU cores.

    python -m qwen3_vlm.demo.tiny                                             # remake assets/tiny
    python -m qwen3_vlm.demo.tiny --data rows.json --image-root pictures --output outputs/backbones

They replace the real backbones in tests and trials. The classes and the loading path are the same, but the size is a
thousandth.
"""
