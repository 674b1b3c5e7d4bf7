"""The data sets we can make ourselves."""
