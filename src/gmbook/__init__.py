"""gmbook: a textbook on deep generative models that a computer can check."""
