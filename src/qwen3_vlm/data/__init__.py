"""Input data: turns files into records, records into samples, and samples into batches."""
