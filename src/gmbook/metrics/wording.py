"""Metrics in words: the one place where a key becomes prose. A key without an entry is read as it is spelled."""

from __future__ import annotations

from typing import Any

from gmbook.metrics.metric import Metric, Protocol

NAMES = {
    "bits_per_dim": "bits/dim",
    "bits_per_dim_bound": "bits/dim, bound",
    **{f"bits_per_dim_bound_{n}": f"bits/dim, bound, of {n} steps" for n in (1000, 50, 20, 10)},
    "bits_per_dim_flow": "bits/dim along the flow",
    "bits_per_dim_iwae": "bits/dim, IWAE bound",
    "bits_per_dim_spread": "standard deviation of bits/dim over draws of the noise",
    "bits_per_letter": "bits per letter, exact",
    "bits_per_letter_bound": "bits per letter, bound",
    "class_counts": "samples of each class",
    "classifier_frechet_distance": "classifier Fréchet distance",
    "efficientnet_frechet_distance": "Fréchet distance of EfficientNet-Lite0 features",
    "contrast_kept": "contrast between neighbours over that of the originals",
    "cooled": "at temperature 0.7",
    "energy_distance": "energy distance",
    "exploded": "share of samples that explode on the way back",
    "feature_distance_to_reconstructions": "Fréchet distance of EfficientNet-Lite0 features to reconstructions",
    "fid": "FID",
    "five_grams": "5-grams",
    "four_grams": "4-grams",
    **{f"frechet_at_{n}": f"classifier Fréchet distance, network calls: {n}" for n in (1, 2, 4, 8, 25)},
    "frechet_distance_to_reconstructions": "classifier Fréchet distance to reconstructions of real digits",
    **{f"frechet_in_{n}": f"classifier Fréchet distance, steps: {n}" for n in (1, 4, 16)},
    "frechet_cooled": "classifier Fréchet distance, at temperature 0.7",
    "frechet_guided": "classifier Fréchet distance, guided",
    "from_the_end_of_samples": "from where samples end, t = 0.001",
    "frechet_unguided": "classifier Fréchet distance, unguided",
    "gaussian": "one Gaussian",
    "gaussian_codes": "decoded draws of one Gaussian of the codes",
    "gaussian_after_logit": "full-covariance Gaussian after the same preprocessing",
    "half_the_steps": "by half of the steps",
    "histogram": "histogram per pixel",
    "infilled_letters": "share of a gap's letters drawn as they stood",
    "known_words": "share of sampled words that the training text has",
    "large_variance": "same mean, β for the variance",
    "leans_as_asked": "lean as the caption says",
    "letter_frequencies": "letter frequencies",
    "mean_image": "mean image",
    "nats_above_entropy": "nats above the entropy",
    "nearest_training_image": "root mean square distance to the nearest training image",
    "nats_per_point": "nats per point",
    "negative_elbo": "negative ELBO",
    "negative_iwae": "negative IWAE bound",
    "one_rectified": "1-rectified flow",
    "not_told": "told the class alone",
    "phase_one": "after the first phase",
    "pixel_gaussian": "full-covariance Gaussian of the training pixels",
    "rate": "KL of the posterior from the standard normal",
    "read_as_asked": "read as the class asked for",
    **{f"read_in_{n}": f"read as the class asked for, steps: {n}" for n in (1, 4, 16)},
    "read_cooled": "read as the class asked for, at temperature 0.7",
    "read_guided": "read as the class asked for, guided",
    "read_unguided": "read as the class asked for, unguided",
    "classified_by_bayes": "classified rightly by Bayes' rule",
    "nats_of_a_wrong_label": "cost of a wrong label",
    **{f"recall_at_{n}": f"recall, network calls: {n}" for n in (1, 2, 4, 8, 25)},
    **{f"recall_in_{n}": f"recall, steps: {n}" for n in (1, 4, 16)},
    "recall_cooled": "recall, at temperature 0.7",
    "recall_guided": "recall, guided",
    "recall_unguided": "recall, unguided",
    "small_variance": "same mean, β̃ for the variance",
    "sliced_w2": "sliced W2",
    "straightness": "straightness S",
    "reconstruction_error": "root mean square error of reconstructions",
    "reconstruction_frechet_distance": "classifier Fréchet distance of reconstructions",
    "reconstruction_feature_distance": "Fréchet distance of EfficientNet-Lite0 features, reconstructions",
    "thick_as_asked": "as thick as the caption says",
    "three_grams": "3-grams",
    "total_variation": "total variation",
    "two_grams": "2-grams",
    "two_rectified": "2-rectified flow",
}


def name(key: str) -> str:
    """What a metric or a baseline is called."""
    return NAMES.get(key, key.replace("_", " "))


def number(value: Any) -> str:
    """Four digits of a float; integers as they are, with commas; several of them as a list."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else ", ".join(number(part) for part in value)


def measured(metric: Metric) -> str:
    """The value with its error and unit, or why there is none."""
    if metric.value is None:
        return metric.missing
    text = number(metric.value) + (f" ± {metric.error:.2g}" if metric.error is not None else "")
    return text if not metric.unit or metric.unit in name(metric.key) else f"{text} {metric.unit}"


def beside(metric: Metric) -> str:
    """What stands beside the value: true data, and simple models."""
    parts = [f"true data {number(metric.floor)}"] if metric.floor is not None else []
    return "; ".join([*parts, *(f"{name(key)} {number(value)}" for key, value in metric.baselines.items())])


def protocol(how: Protocol) -> str:
    """How it was measured, in one line."""
    examples = (f"{how.examples:,} of {how.data}" if how.examples is not None else how.data) or ""
    samples = f"{how.samples:,} samples" if how.samples is not None else ""
    parts = [f"{samples} against {examples}" if samples and examples else samples or examples]
    parts.append(f"{how.draws} draw{'s' if how.draws != 1 else ''} each" if how.draws is not None else "")
    parts += [how.setting, f"features of {how.network}" if how.network else "", how.sampler]
    parts.append(f"seed {how.seed}" if how.seed is not None else "")
    return "; ".join(part for part in parts if part)


def sentence(metric: Metric) -> str:
    """All of it in one line."""
    extra = "; ".join(part for part in (beside(metric), protocol(metric.protocol)) if part)
    return f"{name(metric.key)}: {measured(metric)}" + (f" ({extra})" if extra else "")
