"""Taming Transformers for High-Resolution Image Synthesis. Esser, Rombach, Ommer, CVPR 2021, arXiv:2012.09841 (VQGAN).
With the quantiser of van den Oord, Vinyals, Kavukcuoglu, NIPS 2017, arXiv:1711.00937 (VQ-VAE).

How an autoencoder x ≈ D(E(x)) is trained as the first stage of a generative model: a reconstruction loss with a
perceptual part, a regulariser of the latents, and a patch discriminator whose weight adapts. Latent diffusion and
DC-AE train theirs so too. (What VQGAN puts on top, a transformer over the codes, is not here.)

Losses are summed over an example's pixels and averaged over the batch, as in latent diffusion's KL code, whose weight
1e-6 assumes it. The perceptual loss is a callable that you bring. LPIPS, which the papers use, is a trained network,
and the book downloads none; `FeatureDistance` is the same construction on a network that you have, without LPIPS'
learned weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmbook.core.checks import check_event, check_output
from gmbook.core.model import Model, Objective, sampling
from gmbook.papers.gan import Game, hinge

Perceptual = Callable[[Tensor, Tensor], Tensor]  # (x, x̂), each (B, *S) -> (B,)


class FeatureDistance(nn.Module):
    """Σ_l mean over places of ‖φ̂_l(x) − φ̂_l(x̂)‖², φ̂_l the features of stage l with norm 1 at each place: (B,).

    (def-ldm-perceptual.) Differentiable in both images; the network itself is frozen and stays in evaluation mode.
    LPIPS (Zhang et al., arXiv:1801.03924, Eq. 1) has besides one learned weight for each channel, and features of
    ImageNet: its numbers compare with none of these.

    Args:
        stages: φ_1, then what leads from φ_1 to φ_2, and so on: modules from maps to maps.

    Shapes: x, x̂ (B, *S) -> (B,).
    """

    def __init__(self, *stages: nn.Module):
        super().__init__()
        self.stages = nn.ModuleList(stages).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FeatureDistance:
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        total, both = x.new_zeros(len(x)), torch.cat([x, output])
        for stage in self.stages:
            both = stage(both)
            of_x, of_output = F.normalize(both, dim=1, eps=1e-10).chunk(2)
            total = total + (of_x - of_output).square().sum(1).flatten(1).mean(1)
        return total


def adaptive_weight(rec: Tensor, adv: Tensor, last: Tensor, delta: float = 1e-4, most: float = 1e4) -> Tensor:
    """λ = ‖∇_L L_rec‖/(‖∇_L L_adv‖ + δ) at the decoder's last weight L, a constant: () (ldm-adaptive-weight).

    It makes both losses pull that layer equally hard, whatever their units; scaling L_rec scales λ, scaling L_adv
    cancels. δ and the upper limit are those of the authors' code.

    Args:
        rec, adv: the two losses, (), both depending on L. Their graphs are kept.
    """
    rec_norm, adv_norm = (torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (rec, adv))
    return (rec_norm / (adv_norm + delta)).clamp(max=most).detach()


class Adversary(nn.Module):
    """The second player of an autoencoder: a discriminator of patches, and what its verdict weighs.

    Args:
        discriminator: ℓ(x (B, *S)) -> scores of any shape, one per patch: `networks.conv.PatchGAN`.
        last: the weight of the decoder's last layer, where the adaptive weight is measured.
        weight: a factor on the adaptive λ; 0.5 in the KL-f8 configuration.
        delta: δ of the adaptive weight.
        game: the losses; `hinge` as in the authors' code (which halves the discriminator's).
    """

    def __init__(
        self,
        discriminator: nn.Module,
        last: Tensor,
        weight: float = 0.5,
        delta: float = 1e-4,
        game: Game = hinge,
    ):
        super().__init__()
        self.discriminator, self.weight, self.delta, self.game = discriminator, weight, delta, game
        self._last = (last,)  # in a tuple: the decoder owns it, and it must not be registered here too

    def generator_term(self, rec: Tensor, fake: Tensor) -> Tensor:
        """weight · λ · L_adv(x̂), the term of the autoencoder's loss: rec (), fake (B, *S) -> (). Needs gradients."""
        adv = self.game.generator(self.discriminator(fake)).mean()
        return self.weight * adaptive_weight(rec, adv, self._last[0], self.delta) * adv

    def loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """The discriminator's own loss, mean over patches: (B, *S), (B, *S) -> ()."""
        real_scores, fake_scores = self.discriminator(real), self.discriminator(fake.detach())
        return self.game.real(real_scores).mean() + self.game.fake(fake_scores).mean()


class Autoencoder(Model, ABC):
    """The first stage, L_rec(x, D(E(x))) + L_reg, and an adversary if there is one (ldm-autoencoder).

    min over E, D, max over ψ of L_rec − L_adv(D(E(x))) + log D_ψ(x) + L_reg in the paper; here two objectives, each
    minimised by its own player. The adversary should enter late (after 50 000 steps in the authors' configuration):
    train on `players(adversarial=False)` first, then on `objectives()`.

    Args:
        shape: the event shape S of the data.
        perceptual: (x, x̂) -> (B,), added to every pixel's |x − x̂| as LPIPS is in the authors' code; None for none.
        adversary: the second player, or None.
    """

    def __init__(
        self, shape: tuple[int, ...], perceptual: Perceptual | None = None, adversary: Adversary | None = None
    ):
        super().__init__()
        self.shape, self.perceptual, self.adversary = tuple(shape), perceptual, adversary

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """E(x), what a prior models: (B, *S) -> (B, *latent)."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """D(z): (B, *latent) -> (B, *S)."""

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The reconstruction x̂ that is trained, (B, *S), and L_reg, (B,)."""

    @sampling
    def reconstruct(self, x: Tensor) -> Tensor:
        """D(E(x)): (B, *S)."""
        return self.decode(self.encode(x))

    def _rec_and_reg(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """L_rec = Σ_pixels (|x − x̂| + perceptual(x, x̂)), (), L_reg, (), and x̂."""
        output, penalty = self(x)
        check_output(output, x.shape, "the decoder")
        rec = (x - output).abs().flatten(1).sum(1)
        if self.perceptual is not None:
            rec = rec + x[0].numel() * self.perceptual(x, output)
        return rec.mean(), penalty.mean(), output

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """L_rec + L_reg, without the adversary: (B, *S) -> (). Labels play no part."""
        rec, penalty, _ = self._rec_and_reg(x)
        return rec + penalty

    def players(self, parameters: list[nn.Parameter] | None = None, adversarial: bool = True) -> dict[str, Objective]:
        """The autoencoder, and the adversary where there is one; each may move its own parameters only.

        Args:
            parameters: what the autoencoder may move; None for all that it has.
            adversarial: False leaves the adversary out, and L_adv with it.
        """
        adversary = self.adversary
        theirs = set() if adversary is None else set(adversary.parameters())
        if parameters is None:
            parameters = [p for p in self.parameters() if p.requires_grad and p not in theirs]
        if adversary is None or not adversarial:
            return {"autoencoder": Objective(self.loss, parameters)}

        def autoencoder(x: Tensor, y: Tensor | None = None) -> Tensor:
            rec, penalty, output = self._rec_and_reg(x)
            return rec + adversary.generator_term(rec, output) + penalty

        def discriminator(x: Tensor, y: Tensor | None = None) -> Tensor:
            with torch.no_grad():
                output, _ = self(x)  # a constant for this player
            return adversary.loss(x, output)

        return {
            "autoencoder": Objective(autoencoder, parameters),
            "discriminator": Objective(discriminator, list(adversary.parameters())),
        }

    def objectives(self) -> dict[str, Objective]:
        """All players, on all their parameters."""
        return self.players()


class VQAutoencoder(Autoencoder):
    """Each vector of the latent map is replaced by its nearest of K codes.

    The quantiser belongs to the decoder: `encode` returns what is *not yet* quantised, and the prior models that.

    Args:
        encoder: (B, *S) -> (B, c, …).
        decoder: (B, c, …) -> (B, *S).
        codes: K.
        dim: c.
        beta: the weight of the commitment term; 0.25 in arXiv:1711.00937.
        weight: of L_reg; 1 in the authors' code.
        options: perceptual, adversary, as of `Autoencoder`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        shape: tuple[int, ...],
        codes: int,
        dim: int,
        beta: float = 0.25,
        weight: float = 1.0,
        **options: Any,
    ):
        super().__init__(shape, **options)
        self.encoder, self.decoder, self.beta, self.weight = encoder, decoder, beta, weight
        self.codebook = nn.Parameter(torch.empty(codes, dim).uniform_(-1 / codes, 1 / codes))

    def encode(self, x: Tensor) -> Tensor:
        """The encoder's output, not quantised: (B, c, …)."""
        check_event(x, self.shape)
        return self.encoder(x)

    def quantise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """e = the code nearest to z at each place, (B, c, …), and its index k = argmin_k ‖z − e_k‖, (B, …) (ldm-vq)."""
        channels_last = z.movedim(1, -1)
        index = torch.cdist(channels_last.flatten(0, -2), self.codebook).argmin(1).reshape(channels_last.shape[:-1])
        return self.codebook[index].movedim(-1, 1), index

    def decode(self, z: Tensor) -> Tensor:
        """D(quantise(z)): (B, c, …) -> (B, *S)."""
        return self.decoder(self.quantise(z)[0])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x̂ and L_reg = w (D_x/D_z) (‖sg[z] − e‖² + β‖z − sg[e]‖²), arXiv:1711.00937 (ldm-vq-loss).

        The authors' code *averages* both the reconstruction, over D_x pixels, and this term, over D_z entries of the
        latent. Here the reconstruction is a sum over pixels, so the factor D_x/D_z keeps their balance.

        The decoder receives z + sg[e − z]: in value e, in gradient z, as if rounding were not there
        (ldm-straight-through). So the codebook learns from the first term alone, and β weighs the second, which moves
        the encoder. (The authors' code had β on the first, unless `legacy=False`.)
        """
        z = self.encode(x)
        e, _ = self.quantise(z)
        to_codes = (z.detach() - e).square().flatten(1).sum(1)
        to_latents = (z - e.detach()).square().flatten(1).sum(1)
        balance = self.weight * x[0].numel() / z[0].numel()
        return self.decoder(z + (e - z).detach()), balance * (to_codes + self.beta * to_latents)

    @torch.no_grad()
    def seed_codebook(self, x: Tensor) -> None:
        """Put the codes on K latent vectors of a batch. From their small random start most would never be used.

        Raises:
            ValueError: the batch has fewer vectors than there are codes.
        """
        vectors = self.encode(x).movedim(1, -1).flatten(0, -2)
        if len(vectors) < len(self.codebook):
            raise ValueError(
                f"need at least {len(self.codebook)} latent vectors, got {len(vectors)}: give a larger batch"
            )
        self.codebook.copy_(vectors[torch.randperm(len(vectors), device=vectors.device)[: len(self.codebook)]])

    @torch.no_grad()
    def usage(self, x: Tensor) -> Tensor:
        """How often each code is used on x, as a law over codes: (B, *S) -> (K,)."""
        counts = torch.bincount(self.quantise(self.encode(x))[1].flatten(), minlength=len(self.codebook))
        return counts / counts.sum()


def perplexity(usage: Tensor) -> Tensor:
    """exp H(usage), the number of codes in effective use: (K,) -> () (ldm-perplexity). Between 1 and K."""
    return torch.special.entr(usage).sum(-1).exp()
