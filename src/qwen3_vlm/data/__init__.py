"""Prepares the input data: reads records from files, turns records into samples, and collates samples into batches."""
