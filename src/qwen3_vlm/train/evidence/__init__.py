"""The evidence in a checkpoint, and its comparison with the current environment when the checkpoint is opened.

The evidence consists of hashes of the inputs and weights of the training, digests of the saved tensors, and the canary
(scores of a few held-out rows).
"""
