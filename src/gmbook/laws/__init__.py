"""Laws that are known exactly: points in the plane, pairs of tokens, lines of letters."""
