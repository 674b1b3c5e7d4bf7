"""The embedded worlds and the maker of tiny backbones, which a trial without download or GPU needs."""
