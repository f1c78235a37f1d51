"""What a paper's chapter proves and no model calls: exact laws, floors and counts, one file per paper."""
