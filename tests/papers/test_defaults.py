"""Defaults: the constants that a paper names are the paper's, and all that changes a model is off unless asked for."""

import inspect

import pytest

from gmbook.papers import (
    d3pm,
    ddim,
    ddpm,
    ffjord,
    flow_matching,
    gan,
    glow,
    improved_ddpm,
    latent_diffusion,
    mar,
    ncsn,
    realnvp,
    score_sde,
    vae,
)
from gmbook.papers.theory import ddim as ddim_theory

PAPERS = [  # function, its defaults, where they are printed
    (gan.gradient_penalty, {"weight": 10.0}, "arXiv:1704.00028"),
    (realnvp.NICE, {"couplings": 4}, "arXiv:1410.8516"),
    (realnvp.multiscale, {"per_mask": 3, "last": 4}, "arXiv:1605.08803"),
    (realnvp.RealNVP.on_images, {"alpha": 0.05, "levels": 256}, "arXiv:1605.08803"),
    (glow.Glow.on_images, {"scales": 3, "steps": 32, "width": 512}, "arXiv:1807.03039, CIFAR-10"),
    (ffjord.CNF, {"rtol": 1e-5, "atol": 1e-5}, "the authors' code"),
    (ddpm.linear_betas, {"steps": 1000}, "arXiv:2006.11239"),
    (ddpm.DDPM, {"steps": 1000}, "arXiv:2006.11239"),
    (improved_ddpm.cosine_betas, {"s": 0.008, "most": 0.999}, "arXiv:2102.09672"),
    (improved_ddpm.ImprovedDDPM, {"vlb_weight": 0.001, "history": 10}, "arXiv:2102.09672"),
    (improved_ddpm.LossSecondMoment, {"history": 10, "uniform": 0.001}, "arXiv:2102.09672 and its code"),
    (ncsn.NCSN, {"sigma_max": 1.0, "sigma_min": 0.01, "levels": 10}, "arXiv:1907.05600"),
    (ncsn.NCSN, {"per_level": 100, "step": 2e-5}, "arXiv:1907.05600"),
    (ncsn.annealed_langevin, {"per_level": 100, "step": 2e-5}, "arXiv:1907.05600"),
    (ncsn.LevelPath.karras_times, {"rho": 7.0}, "arXiv:2206.00364"),
    (score_sde.predictor_corrector, {"corrections": 1, "snr": 0.16}, "arXiv:2011.13456"),
    (score_sde.corrected_trajectory, {"corrections": 1, "snr": 0.16}, "arXiv:2011.13456"),
    (flow_matching.logit_normal, {"mean": 0.0, "std": 1.0}, "arXiv:2403.03206"),
    (d3pm.D3PM, {"steps": 1000}, "arXiv:2107.03006"),
    (latent_diffusion.sqrt_linear_betas, {"steps": 1000, "first": 0.0015, "last": 0.0195}, "the authors' code"),
    (latent_diffusion.KLAutoencoder, {"weight": 1e-6}, "arXiv:2112.10752"),
    (mar.mask_ratios, {"least": 0.7, "std": 0.25}, "arXiv:2406.11838"),
    (mar.MAR, {"ratio": (0.7, 0.25)}, "arXiv:2406.11838"),
    (mar.DiffusionHead, {"repeats": 4}, "arXiv:2406.11838"),
]
OFF = [  # function, its parameters, the value that changes nothing
    (vae.VAE, "beta", 1.0),
    (vae.VAE.score_function_surrogate, "baseline", 0.0),
    (gan.GAN, "critic_steps", 1),
    (glow.Glow.sample, "temperature", 1.0),
    (ffjord.FFJORD, "kinetic jacobian", 0.0),
    (ffjord.FFJORD.on_images, "kinetic jacobian", 0.0),
    (ddpm.DDPM.step, "temperature", 1.0),
    (ddpm.DDPM.trajectory, "temperature", 1.0),
    (ddpm.DDPM.sample, "temperature", 1.0),
    (ddim.step, "eta", 0.0),
    (ddim.trajectory, "eta", 0.0),
    (ddim.sample, "eta", 0.0),
    (ddim.sample, "power", 1.0),
    (ddim.invert, "power", 1.0),
    (ddim.coefficients, "eta", 0.0),
    (ddim_theory.gaussian_std, "eta", 0.0),
    (score_sde.sde_trajectory, "noise", 1.0),
    (score_sde.reverse_sde, "noise", 1.0),
    (d3pm.D3PM, "hybrid", 0.0),
    (latent_diffusion.LatentDiffusion, "scale", 1.0),
    (mar.MAR.sample, "scale temperature", 1.0),
    (mar.MAR.trajectory, "scale temperature", 1.0),
    *[
        (head.draw, "scale temperature", 1.0)
        for head in (mar.Head, mar.DiffusionHead, mar.MeanHead, mar.MixtureHead, mar.CodebookHead)
    ],
]


def defaults(function):
    """The defaults of a function, or of a class' constructor, by name."""
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


@pytest.mark.parametrize(("function", "printed", "source"), PAPERS, ids=lambda v: getattr(v, "__qualname__", ""))
def test_a_papers_constants(function, printed, source):
    held = defaults(function)
    assert {name: held[name] for name in printed} == printed, source


@pytest.mark.parametrize(("function", "names", "neutral"), OFF, ids=lambda v: getattr(v, "__qualname__", ""))
def test_what_changes_a_model_is_off_unless_asked_for(function, names, neutral):
    assert [defaults(function)[name] for name in names.split()] == [neutral] * len(names.split())
