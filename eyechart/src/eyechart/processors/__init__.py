"""A model's own processor and chat template, which determine its prompts and the number of tokens per image."""
