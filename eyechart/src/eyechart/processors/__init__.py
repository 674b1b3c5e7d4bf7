"""A model's processor and chat template: they determine its prompts and the number of tokens per image."""
