"""Uses a model's processor and chat template, which determine its prompts and the number of tokens per image."""
