"""Makes tiny backbones for any LLaVA-format data set: a SigLIP tower and a Qwen3, small enough for two CPU cores.

    python -m qwen3_vlm.demo.tiny                                             # remake assets/tiny
    python -m qwen3_vlm.demo.tiny --data rows.json --image-root pictures --output outputs/backbones

In tests and trial runs, the tiny backbones replace the full-size ones. They have the same model classes and are loaded
by the same code, but they are about a thousand times smaller.
"""
