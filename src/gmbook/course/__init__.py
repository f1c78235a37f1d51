"""Exercises that grade themselves: checks, student versions, grading."""
