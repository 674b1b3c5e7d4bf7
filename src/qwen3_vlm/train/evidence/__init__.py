"""What a checkpoint carries about itself (identities, a canary, digests), and the comparison when it is opened."""
