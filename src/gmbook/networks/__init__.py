"""Architectures: plain, small, each readable in one sitting. A network knows x, t and y; meaning sits around it."""
