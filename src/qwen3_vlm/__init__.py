"""Train a vision-language connector and prove whether it carries the picture into the language model."""
