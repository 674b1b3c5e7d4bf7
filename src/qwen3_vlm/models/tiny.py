"""`python -m qwen3_vlm.models.tiny` says where the maker of tiny backbones is now."""

import sys

if __name__ == "__main__":
    sys.stderr.write("error: the maker of tiny backbones has moved: python -m qwen3_vlm.demo.tiny --help\n")
    sys.exit(2)
