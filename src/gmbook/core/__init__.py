"""Mathematics that stands once. Imports torch only."""
