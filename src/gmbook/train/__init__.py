"""Training: the loop, the average of the weights, long runs with checkpoints, several processes, plans."""

from gmbook.train.ema import EMA
from gmbook.train.loop import Diverged, History, Log, State, schedule, train
from gmbook.train.run import fit

__all__ = ["EMA", "Diverged", "History", "Log", "State", "fit", "schedule", "train"]
