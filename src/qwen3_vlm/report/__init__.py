"""Results to what people read. Nothing is computed here."""
