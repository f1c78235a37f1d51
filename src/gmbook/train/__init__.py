"""Training: recipes, the loop, the average of the weights, long runs with checkpoints, several processes, plans."""

from gmbook.train.ema import EMA
from gmbook.train.loop import Diverged, State, train
from gmbook.train.recipe import Recipe, schedule
from gmbook.train.run import History, Log, fit

__all__ = ["EMA", "Diverged", "History", "Log", "Recipe", "State", "fit", "schedule", "train"]
