"""What can be wrong with data on a machine."""


class DataMissing(FileNotFoundError):
    """A data set is not on this machine. The message says how to get it."""


class DataCorrupt(ValueError):
    """A file of a data set is truncated, damaged, or not what its name says. The message names it."""


class DownloadFailed(OSError):
    """A download came to nothing; nothing half-written is left behind. The message says why."""
