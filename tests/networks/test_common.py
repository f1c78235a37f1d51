"""What every denoising network owes: shapes, dtypes, gradients, independence of the examples, null labels."""

import pytest
import torch
from networks.helpers import randomise

from gmbook.networks.conv import Decoder, Encoder, MapDecoder, MapEncoder
from gmbook.networks.guided import Guided
from gmbook.networks.mlp import TimeMLP
from gmbook.networks.transformer import DiT, Transformer
from gmbook.networks.unet import UNet

# name: (builder of a conditional network with 3 classes, event shape, output shape)
NETS = {
    "mlp": (lambda: TimeMLP(2, 16, 3, classes=3), (2,), (2,)),
    "mlp-two-outputs": (lambda: TimeMLP(5, 16, 2, classes=3, out=10), (5,), (10,)),
    "unet-8": (lambda: UNet(1, width=8, classes=3), (1, 8, 8), (1, 8, 8)),
    "unet-28": (
        lambda: UNet(2, 4, width=8, multipliers=(1, 2), blocks=2, classes=3),
        (2, 28, 28),
        (4, 28, 28),
    ),
    "unet-32": (lambda: UNet(3, width=8, attention=(1,), classes=3), (3, 32, 32), (3, 32, 32)),
    "unet-odd": (lambda: UNet(1, width=4, multipliers=(1, 1, 1), classes=3), (1, 7, 5), (1, 7, 5)),
    "dit": (lambda: DiT((2, 8, 12), 4, 16, 2, 2, classes=3, out_channels=3), (2, 8, 12), (3, 8, 12)),
    "encoder": (lambda: OfX(Encoder((1, 8, 8), 6, 8, classes=3)), (1, 8, 8), (6,)),
    "map-encoder": (lambda: OfX(MapEncoder((3, 32, 32), 4, 4, classes=3)), (3, 32, 32), (4, 8, 8)),
    "decoder": (lambda: OfX(Decoder(5, (1, 28, 28), 8, classes=3)), (5,), (1, 28, 28)),
    "map-decoder": (lambda: OfX(MapDecoder(4, (3, 8, 8), 8, classes=3)), (4, 2, 2), (3, 8, 8)),
    "guided": (lambda: Guided(TimeMLP(2, 16, 3, classes=3), 2.0, null=3), (2,), (2,)),
}
TIMELESS = {"encoder", "map-encoder", "decoder", "map-decoder"}


class OfX(torch.nn.Module):
    """An encoder or decoder, called like a denoising network."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, t, y=None):
        return self.net(x, y)


@pytest.fixture(params=NETS, ids=str)
def case(request):
    torch.manual_seed(0)
    build, shape, out = NETS[request.param]
    net = randomise(build()).double().eval()
    x, t, y = (
        torch.randn(4, *shape, dtype=torch.float64),
        torch.rand(4, dtype=torch.float64),
        torch.tensor([0, 1, 2, 3]),
    )
    return request.param, net, x, t, y, out


def test_shapes_and_dtypes(case):
    _, net, x, t, y, out = case
    double = net(x, t, y)
    assert double.shape == (4, *out) and double.dtype == torch.float64
    single = net.float()(x.float(), t.float(), y)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=2e-2, atol=2e-3 * double.abs().max().item())


def test_each_example_stands_alone(case):
    _, net, x, t, y, _ = case
    whole = net(x, t, y)
    for i in range(4):
        torch.testing.assert_close(net(x[i : i + 1], t[i : i + 1], y[i : i + 1])[0], whole[i], rtol=1e-9, atol=1e-11)


def test_every_parameter_gets_a_gradient(case):
    _, net, x, t, y, _ = case
    net(x, t, y).square().sum().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


def test_time_label_and_null_class(case):
    name, net, x, t, y, _ = case
    base = net(x, t, y)
    if name not in TIMELESS:
        assert (net(x, 1 - t, y) - base).abs().max() > 1e-3
    moved = (net(x, t, (y + 1) % 4) - base).flatten(1).abs().amax(1)
    assert moved.min() > 1e-4
    torch.testing.assert_close(net(x, t), net(x, t, torch.full((4,), 3)))


@pytest.mark.parametrize(
    "net, shape",
    [
        (TimeMLP(2, 8, 2), (2,)),
        (UNet(1, width=8), (1, 8, 8)),
        (DiT((1, 8, 8), 4, 16, 1, 2), (1, 8, 8)),
        (OfX(Encoder((1, 8, 8), 2, 4)), (1, 8, 8)),
        (Transformer(5, 16, 1, 2), None),
        (Transformer(5, 16, 1, 2, time=True), None),
    ],
    ids=lambda v: type(v).__name__,
)
def test_labels_are_refused_by_unconditional_networks(net, shape):
    x = torch.randint(5, (2, 3)) if shape is None else torch.randn(2, *shape)
    with pytest.raises(ValueError, match="knows no labels"):
        net(x, torch.rand(2), torch.zeros(2, dtype=torch.long))
