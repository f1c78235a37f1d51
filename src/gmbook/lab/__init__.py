"""The laboratory: toy laws, data, training, metrics, plots. Knows no paper."""
