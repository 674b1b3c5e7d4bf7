"""Prints, when run as a program, that tiny backbones are now made with the module `qwen3_vlm.demo.tiny`."""

import sys

if __name__ == "__main__":
    sys.stderr.write("error: the maker of tiny backbones has moved: python -m qwen3_vlm.demo.tiny --help\n")
    sys.exit(2)
