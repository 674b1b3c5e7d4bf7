"""Input data: files to records, records to samples, samples to batches."""
