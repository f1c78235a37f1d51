"""One file per paper, named like its chapter."""
