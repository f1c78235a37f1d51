"""Invertible layers with log-determinants, and the law that they make of noise."""
