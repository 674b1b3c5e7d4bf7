"""The evidence in a checkpoint, and its comparison with the config, model and data with which the checkpoint is opened.

The evidence consists of the data split, hashes and settings that identify the components used in training, digests of
the saved tensors, and the canary (results of the model for a few held-out rows).
"""
