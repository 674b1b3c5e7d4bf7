"""Image-text-to-text models of transformers behind the scoring seam, each tested before it is believed."""
