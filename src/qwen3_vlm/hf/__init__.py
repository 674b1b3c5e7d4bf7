"""Makes exported models usable through transformers: registers the classes for their config, model and processor.

    import qwen3_vlm.hf                       # makes the three classes known to transformers' Auto classes
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained("exported")
    processor = AutoProcessor.from_pretrained("exported")
    print(processor.batch_decode(model.generate(**processor(images="picture.png"))))

`qwen3-vlm export` writes a folder such as `exported` from a checkpoint.
"""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from qwen3_vlm.hf.configuration import ConnectorVlmConfig
from qwen3_vlm.hf.modeling import ConnectorVlmForConditionalGeneration
from qwen3_vlm.hf.processing import ConnectorVlmProcessor

AutoConfig.register(ConnectorVlmConfig.model_type, ConnectorVlmConfig, exist_ok=True)
AutoModelForImageTextToText.register(ConnectorVlmConfig, ConnectorVlmForConditionalGeneration, exist_ok=True)
AutoProcessor.register(ConnectorVlmConfig, ConnectorVlmProcessor, exist_ok=True)

__all__ = ["ConnectorVlmConfig", "ConnectorVlmForConditionalGeneration", "ConnectorVlmProcessor"]
