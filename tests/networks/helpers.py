"""What the tests of the networks share."""

import torch


def randomise(net):
    """Small random values in every parameter: networks that begin at zero say nothing at first."""
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2 if parameter.ndim < 2 else parameter[0].numel() ** -0.5)
    return net
