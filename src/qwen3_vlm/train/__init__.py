"""Stage 1 alignment: only the connector learns."""
