"""`python -m qwen3_vlm.models.tiny` prints that the maker of tiny backbones has moved, and to which module."""

import sys

if __name__ == "__main__":
    sys.stderr.write("error: the maker of tiny backbones has moved: python -m qwen3_vlm.demo.tiny --help\n")
    sys.exit(2)
