"""The house around the book: chapters' pairs, the ledger, the site. Not part of the installed package."""
