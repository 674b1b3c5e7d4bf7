"""The embedded worlds, and the maker of tiny backbones: what a trial without download or GPU needs."""
