"""Every condition on the same samples: losses, and the measures made from them."""
