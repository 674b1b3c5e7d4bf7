"""What goes in: files to records, records to samples, samples to batches."""
