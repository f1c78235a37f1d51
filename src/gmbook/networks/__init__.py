"""Architectures: plain, small, each readable in one sitting. A network knows x, t and y.

Every denoising network is called net(x (B, *S), t (B,), y), with t in [0, 1]. y is None (unconditional: a
network with classes then uses its null class, whose index is the number of classes) or labels (B,) int64.
"""
