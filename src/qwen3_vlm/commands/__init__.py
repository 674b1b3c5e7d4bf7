"""What the commands do, one file each; programs call the same functions."""
