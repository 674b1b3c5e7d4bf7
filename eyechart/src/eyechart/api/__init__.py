"""The public functions of the package, called by user programs and by the commands of `eyechart`."""
