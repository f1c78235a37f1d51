"""MAR: Li, Tian, Li, Deng, He. Autoregressive Image Generation without Vector Quantization. NeurIPS 2024,
arXiv:2406.11838.

A transformer, the backbone, turns the tokens that are known into a vector z for each token that is not; a small head
turns z into a draw of the token. The tokens are vectors (C,): no codebook. Any head will do that has a loss and a
sampler for p(x | z); the paper's is a diffusion model of a single token, here `papers.ddpm.DDPM` with z for a label.

The head is told z alone: its place stands in z, since the decoder's mask tokens carry it. (The authors' code adds one
more learned position to z.) Its variance is fixed here and learned in the code.

Inside this file tokens stand in the order of their generation: `order` (B, L) says which place each one has.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmbook.core.chains import categorical
from gmbook.core.checks import check_count, check_event, check_output
from gmbook.core.gaussians import log_normal
from gmbook.core.model import Model, sampling
from gmbook.core.solvers import last
from gmbook.networks.guided import Guided
from gmbook.networks.transformer import CausalTransformer, MaskedTransformer
from gmbook.papers.ddpm import DDPM
from gmbook.papers.improved_ddpm import Respaced, strided_betas, sub_sequence

# ------------------------------------------------------------------------------------------------------------- orders


def mask_ratios(n: int, least: float = 0.7, std: float = 0.25) -> Tensor:
    """n draws of the fraction of masked tokens, from N(1, std²) on [least, 1]: (n,), float64 (mar-mask-ratio).

    The range is of Section 4.2, the law of the authors' code; its mean there is 0.867. Drawn by inversion.
    """
    lowest = torch.special.ndtr(torch.tensor((least - 1) / std, dtype=torch.float64))
    return 1 + std * torch.special.ndtri(lowest + (0.5 - lowest) * torch.rand(n, dtype=torch.float64))


def cosine_sizes(tokens: int, steps: int) -> list[int]:
    """How many tokens each step generates, (steps,), in sum `tokens` (mar-cosine). Section 4.2, after MaskGIT.

    After step k of K, ⌊L cos(πk/2K)⌋ tokens stay masked: few at a time while little is known, many at the end. Each
    step draws one token at least, so that K = L is one at a time.

    Raises:
        ValueError: steps is not in 1..tokens.
    """
    if not 1 <= steps <= tokens:
        raise ValueError(f"steps must be in 1..{tokens}, at least one token in each, got {steps}")
    left = [tokens]
    for k in range(1, steps):
        left.append(min(left[-1] - 1, math.floor(tokens * math.cos(math.pi * k / (2 * steps)))))
    return [a - b for a, b in zip(left, [*left[1:], 0], strict=True)]


# -------------------------------------------------------------------------------------------------------------- heads


class Head(nn.Module, ABC):
    """p_θ(x | z) of one token: what a backbone needs in place of a softmax, a loss and a sampler (Section 3.1)."""

    @abstractmethod
    def loss(self, x: Tensor, z: Tensor) -> Tensor:
        """x (N, C), z (N, D) -> (), the mean over tokens."""

    def seen(self, x: Tensor) -> Tensor:
        """What a backbone reads of a known token, (..., C) -> (..., C): x, or what this head would draw for it."""
        return x

    @abstractmethod
    def draw(self, z: Tensor, temperature: float = 1.0, scale: float = 1.0, null: Tensor | None = None) -> Tensor:
        """One draw for each z (N, D), guided by `scale` away from p(x | null), null (N, D): (N, C)."""


class DiffusionHead(Head):
    """The paper's head, a diffusion model of a single token with z for its label (mar-loss, mar-sampler, mar-guidance).

    L(z, x) = E ‖ε − ε_θ(x_t | t, z)‖², Section 3.2: `diffusion.loss` and nothing else. It has a floor above 0
    (mar-gaussian-token). The sampler is the ancestral one with its noise σ_t δ scaled by τ, the temperature; guidance
    is ε_u + s(ε_c − ε_u), on the head's network.

    Args:
        diffusion: a DDPM over (C,) whose network is net(x_t (N, C), t (N,), z (N, D)), such as `AdaMLP`.
        repeats: noise levels drawn for each z. The head is cheap beside the backbone, so its gradient may be averaged.
        steps: of the sampler, by default those of the training, T. Fewer take a sub-sequence, as in Improved DDPM: the
            authors train with 1,000 and sample with 100. May be set later.

    Raises:
        ValueError: steps is not in 1..T; here, or in `draw`.
    """

    def __init__(self, diffusion: DDPM, repeats: int = 4, steps: int | None = None):
        super().__init__()
        self.diffusion, self.repeats, self.steps = diffusion, repeats, steps
        strided(diffusion, steps)

    def loss(self, x: Tensor, z: Tensor) -> Tensor:
        return self.diffusion.loss(x.repeat(self.repeats, 1), z.repeat(self.repeats, 1))

    def draw(self, z: Tensor, temperature: float = 1.0, scale: float = 1.0, null: Tensor | None = None) -> Tensor:
        model = strided(self.diffusion, self.steps)
        if null is not None:
            model = model.with_network(Guided(model.net, scale, null))
        return model.sample(len(z), z, temperature)


def strided(model: DDPM, steps: int | None) -> DDPM:
    """The DDPM of a sub-sequence of its steps, with the same network (improved-strided); None keeps all.

    Raises:
        ValueError: steps is not in 1..T.
    """
    if steps is None or steps == model.steps:
        return model
    kept = sub_sequence(model.steps, steps)
    net, betas = Respaced(model.net, kept.to(model.alpha_bar) / model.steps), strided_betas(model.alpha_bar, kept)
    variance: Literal["large", "small"] = "large" if torch.equal(model.chosen_variance, model.beta) else "small"
    few = DDPM(net, model.shape, betas=betas, predicts=model.predicts, variance=variance, clip=model.clip)
    return few.to(model.device).train(model.training)


class MeanHead(Head):
    """Squared error: the draw is E[x | z], whatever p(x | z) is (mar-mean-collapse).

    A temperature has nothing to scale here.

    Args:
        net: (N, D) -> (N, C).
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def loss(self, x: Tensor, z: Tensor) -> Tensor:
        return F.mse_loss(check_output(self.net(z), x.shape), x)

    def draw(self, z: Tensor, temperature: float = 1.0, scale: float = 1.0, null: Tensor | None = None) -> Tensor:
        mean = self.net(z)
        return mean if null is None else torch.lerp(self.net(null), mean, scale)


class MixtureHead(Head):
    """A mixture of K Gaussians with diagonal covariances, by maximum likelihood, as in GIVT (arXiv:2312.02116).

    Guidance is by resampling: of `candidates` draws from p(x | z), one is taken with weight
    (p(x | z)/p(x | null))^{s−1}, which tends to p(x | z)^s p(x | null)^{1−s} with their number. The temperature scales
    the components' standard deviations.

    Args:
        net: (N, D) -> (N, K (1 + 2C)): logits, means, logarithms of the standard deviations.
        channels, components: C and K.
    """

    def __init__(self, net: nn.Module, channels: int, components: int = 8, candidates: int = 64):
        super().__init__()
        self.net, self.channels, self.components, self.candidates = net, channels, components, candidates

    def parts(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (N, K), means (N, K, C), standard deviations (N, K, C)."""
        k, c = self.components, self.channels
        logits, means, log_stds = self.net(z).split([k, k * c, k * c], 1)
        return logits, means.reshape(-1, k, c), log_stds.reshape(-1, k, c).exp()

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z), nats: x (N, C), z (N, D) -> (N,)."""
        logits, means, stds = self.parts(z)
        components = log_normal(x[:, None].expand_as(means).flatten(0, 1), means.flatten(0, 1), stds.flatten(0, 1))
        return (logits.log_softmax(1) + components.reshape(logits.shape)).logsumexp(1)

    def loss(self, x: Tensor, z: Tensor) -> Tensor:
        return -self.log_prob(x, z).mean()

    def draw(self, z: Tensor, temperature: float = 1.0, scale: float = 1.0, null: Tensor | None = None) -> Tensor:
        if null is not None:
            many = [c.repeat_interleave(self.candidates, 0) for c in (z, null)]
            x = self.draw(many[0], temperature)  # (N · candidates, C)
            weights = (scale - 1) * (self.log_prob(x, many[0]) - self.log_prob(x, many[1]))
            chosen = torch.multinomial(weights.reshape(len(z), -1).softmax(1), 1)  # (N, 1)
            return x.reshape(len(z), self.candidates, -1)[torch.arange(len(z), device=z.device), chosen[:, 0]]
        logits, means, stds = self.parts(z)
        rows, k = torch.arange(len(z), device=z.device), torch.multinomial(logits.softmax(1), 1)[:, 0]
        return means[rows, k] + temperature * stds[rows, k] * torch.randn_like(means[rows, k])


class CodebookHead(Head):
    """Vector quantisation and cross-entropy: a token becomes its nearest codeword, and z predicts which (mar-codebook).

    What the paper's Table 1 compares the diffusion head with. No draw is nearer to the token than its codeword. The
    temperature divides the logits, and guidance is l_u + s(l_c − l_u) on them.

    Args:
        net: (N, D) -> (N, K), logits.
        codebook: (K, C), the codewords, such as `sklearn.cluster.KMeans` finds; not trained.
    """

    codebook: Tensor

    def __init__(self, net: nn.Module, codebook: Tensor):
        super().__init__()
        self.net = net
        self.register_buffer("codebook", codebook)

    def quantise(self, x: Tensor) -> Tensor:
        """The index of the nearest codeword: (N, C) -> (N,) int64."""
        return torch.cdist(x, self.codebook.to(x)).argmin(1)

    def seen(self, x: Tensor) -> Tensor:
        """The codeword: (..., C) -> (..., C). In sampling the backbone reads codewords, so in training it must too."""
        return self.codebook[self.quantise(x.flatten(0, -2))].reshape(x.shape)

    def loss(self, x: Tensor, z: Tensor) -> Tensor:
        return F.cross_entropy(check_output(self.net(z), (len(z), len(self.codebook))), self.quantise(x))

    def draw(self, z: Tensor, temperature: float = 1.0, scale: float = 1.0, null: Tensor | None = None) -> Tensor:
        logits = self.net(z)
        if null is not None:
            logits = torch.lerp(self.net(null), logits, scale)
        law = (logits.double() / max(temperature, 1e-6)).softmax(1)  # 0 is the likeliest codeword
        return self.codebook[categorical(law)]


# -------------------------------------------------------------------------------------------------------------- model


class MAR(Model):
    """Autoregression over vectors, by sets of tokens or one by one: p(x^1, …, x^n) = ∏_k p(X^k | X^1, …, X^{k−1}).

    Section 3.4 (mar-next-set). Within a set the tokens are drawn independently, each from its own z. With a
    `MaskedTransformer` a set may have any size; with a `CausalTransformer` (Section 3.3) it is a single token.

    Args:
        backbone: (x (B, L, C), order (B, L), known, y) -> z (B, L − known, D).
        head: p(x | z) of a token.
        shape: the event shape S: any with L · C entries, cut in their order; images (channels, H, W) with `patch`.
        patch: p, for images in tokens of p×p pixels, row by row; C = p² · channels.
        order: "random", a new order for each example, or "raster".
        ratio: the law of the fraction that is masked in training, (least, std) of `mask_ratios`; one draw per batch, as
            in the authors' code. With few tokens choose a lower least: of two tokens, 0.7 always masks both. A causal
            backbone learns all tokens at once and needs none.

    Raises:
        ValueError: the shape is not that of the backbone's tokens, or another argument makes no sense.
    """

    def __init__(
        self,
        backbone: MaskedTransformer | CausalTransformer,
        head: Head,
        shape: tuple[int, ...],
        patch: int | None = None,
        order: Literal["random", "raster"] = "random",
        ratio: tuple[float, float] = (0.7, 0.25),
    ):
        super().__init__()
        if order not in ("random", "raster"):
            raise ValueError(f'order must be "random" or "raster", got {order!r}')
        self.backbone, self.head, self.shape = backbone, head, tuple(shape)
        self.patch, self.order, self.ratio = patch, order, ratio
        tokens, channels = backbone.tokens, backbone.channels
        fits = math.prod(shape) == tokens * channels
        if patch is not None:
            whole = len(shape) == 3 and not any(side % patch for side in shape[1:])
            fits = fits and whole and channels == shape[0] * patch**2
        if not fits:
            raise ValueError(
                f"shape {self.shape} with patch {patch} does not make the {tokens} tokens of {channels} numbers "
                "that the backbone is built for"
            )

    def tokenise(self, x: Tensor) -> Tensor:
        """(B, *S) -> (B, L, C)."""
        if self.patch is not None:
            return F.pixel_unshuffle(x, self.patch).flatten(2).mT
        return x.reshape(len(x), -1, self.backbone.channels)

    def assemble(self, tokens: Tensor) -> Tensor:
        """(B, L, C) -> (B, *S), the inverse of `tokenise`."""
        if self.patch is None:
            return tokens.reshape(-1, *self.shape)
        height, width = (side // self.patch for side in self.shape[-2:])
        return F.pixel_shuffle(tokens.mT.unflatten(2, (height, width)), self.patch)

    def draw_order(self, n: int) -> Tensor:
        """The place of the token that is generated first, second, …: (n, L)."""
        places = torch.arange(self.backbone.tokens, device=self.device).expand(n, -1)
        return places if self.order == "raster" else torch.rand(places.shape, device=places.device).argsort(1)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The head's loss on the tokens that the backbone does not know, mean over them: (). Sections 3.2 and 3.4.

        For a head whose loss is −log p(x | z), with exact conditionals and all numbers of masked tokens equally likely
        (such as ratio = (0, 1000)), L times this is −log p(x) in the mean over orders and numbers (mar-any-order).
        """
        check_event(x, self.shape)
        order, total = self.draw_order(len(x)), self.backbone.tokens
        tokens = _take(self.tokenise(x), order)
        masked = total if self.backbone.causal else math.ceil(total * mask_ratios(1, *self.ratio).item())
        z = self.backbone(self.head.seen(tokens), order, total - masked, self.labels(y, len(x)))  # (B, masked, D)
        return self.head.loss(tokens[:, total - masked :].flatten(0, 1), z.flatten(0, 1))

    def sizes(self, steps: int | None) -> list[int]:
        """How many tokens each step draws; None is one token a step, the only choice for a causal backbone."""
        steps = self.backbone.tokens if steps is None else steps
        if self.backbone.causal and steps != self.backbone.tokens:
            raise ValueError(f"a causal backbone draws one token a step: leave steps out, or {self.backbone.tokens}")
        return cosine_sizes(self.backbone.tokens, steps)

    @sampling
    def trajectory(
        self, n: int, y: Tensor | None = None, steps: int | None = None, scale: float = 1.0, temperature: float = 1.0
    ) -> Iterator[Tensor]:
        """What is known after each step, (n, *S), NaN where no token is yet. One call of the backbone per step.

        Args:
            steps: K of `cosine_sizes`; None for one token a step.
            scale: s of guidance towards y. A step that ends with a fraction f of the tokens known is guided by
                1 + (s − 1) f, as in the authors' code (where f ends at (L − 1)/L): weakly at first, when a choice
                decides about the whole.
            temperature: τ of the head.

        Raises:
            ValueError: n < 1, steps makes no sense, guidance without labels, or a token drawn that is not finite.
        """
        check_count("n", n)
        y = self.labels(y, n)
        copies, total = 1, self.backbone.tokens
        if scale != 1:  # the backbone reads the tokens twice in one call, with and without the label
            if y is None or self.backbone.classes is None:
                raise ValueError(f"guidance by {scale} needs labels: build the backbone with classes=..., and give y")
            y, copies = torch.cat([y, torch.full_like(y, self.backbone.classes)]), 2
        order = self.draw_order(n)
        tokens = torch.full((n, total, self.backbone.channels), torch.nan, device=self.device, dtype=self.dtype)
        known = 0
        for size in self.sizes(steps):
            seen, places = tokens.nan_to_num().repeat(copies, 1, 1), order.repeat(copies, 1)
            z, *null = self.backbone(seen, places, known, y)[:, :size].flatten(0, 1).chunk(copies)
            drawn = self.head.draw(z, temperature, 1 + (scale - 1) * (known + size) / total, *null)
            if not bool(drawn.isfinite().all()):
                raise ValueError("the head drew tokens that are not finite: has the network gone to NaN?")
            tokens[:, known : known + size] = drawn.reshape(n, size, -1)
            known += size
            yield self.assemble(_take(tokens, order.argsort(1)))

    def sample(
        self, n: int, y: Tensor | None = None, steps: int | None = None, scale: float = 1.0, temperature: float = 1.0
    ) -> Tensor:
        """n samples, (n, *S): the end of `trajectory`."""
        return last(self.trajectory(n, y, steps, scale, temperature))


def _take(tokens: Tensor, order: Tensor) -> Tensor:
    """tokens[b, order[b, j]]: (B, L, C), (B, L) -> (B, L, C)."""
    return tokens.gather(1, order[..., None].expand_as(tokens))
