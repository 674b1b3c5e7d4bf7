"""A model's own processor and template: prompts, and tokens per image."""
