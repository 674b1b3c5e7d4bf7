"""The frozen tower, the trained connector, the frozen language model, and the model composed of the three."""
