"""Stage 1 training (alignment): only the connector is trained; both backbones are frozen."""
