"""The one reader of what comes from outside: regular files only, bounded in bytes, unpacked bytes, values and depth."""
