"""One file per paper: its runs on MNIST, CIFAR-10 and text8, at the laptop and the GPU budget."""
