"""The shipped models without batching: particles are computed one by one."""

import math

import torch
from torch import Tensor

from bmaml.densities import weights_of
from bmaml.learners.collapsed import MIN_NOISE, Collapsed
from bmaml.learners.hypothesis_weights import REFERENCE_ROWS
from bmaml.predictive import Predictive
from model_store import Model
from model_store.columns import standardised


def belief(model: Model, x: Tensor, y: Tensor, query: Tensor) -> Predictive:
    """The mixture of all particles, one after the other."""
    parts = [one_particle(model, number, x, y, query) for number in range(collapsed(model).particles)]
    evidence, means, variances = (torch.cat(each) for each in zip(*parts, strict=True))
    weights = (evidence_exponent(model, len(x)) * evidence).log_softmax(0)
    no_noise = torch.zeros(1, 1, 1, 1, dtype=torch.float64)  # the variances hold it
    return Predictive(means[None], variances[None], no_noise, weights[None])


def one_particle(model: Model, number: int, x: Tensor, y: Tensor, query: Tensor) -> tuple[Tensor, ...]:
    """The answer of one particle to one task.

    Returns:
        Log evidence `[scale]`, and means and variances of the query rows `[scale, query, output]`.
    """
    learner = collapsed(model)
    theta = model.learned["initial"][number]
    precision = theta[-1].double().exp()

    def features(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden, prior = learner.network.features_and_outputs(weights_of(theta)[None, None], rows[None])
        whole = torch.cat([hidden[0, 0], torch.ones(len(rows), 1)], -1).double()
        noise = torch.exp(-theta[-2].double()).expand(len(rows))
        if learner.varying_noise:
            noise = noise * torch.exp(whole @ model.learned["noise_slopes"][number].double())
        return (
            whole / math.sqrt(whole.shape[-1]),
            prior[0, 0].double(),
            noise.clamp_min(max(MIN_NOISE, learner.resolution**2 / 3)),
        )

    phi, prior, noise = features(x)
    kernel = phi @ phi.T / precision + noise.diag()
    lower = torch.linalg.cholesky(kernel)
    solved = torch.cholesky_solve(y.double() - prior, lower)
    phi_query, prior_query, noise_query = features(query)
    cross = phi_query @ phi.T / precision
    mean = prior_query + cross @ solved
    before = phi_query.square().sum(-1, keepdim=True) / precision
    within = before - (cross * torch.cholesky_solve(cross.T, lower).T).sum(-1, keepdim=True)
    misfit, volume = ((y.double() - prior) * solved).sum(), 2 * lower.diagonal().log().sum()
    log_widening, unspoken = model.learned["log_widening"].double(), within / before
    log_prior_widening = model.learned.get("log_prior_widening", torch.zeros(())).double()
    noisier = torch.exp(2 * (1 - unspoken) * log_widening)
    wider = noisier * torch.exp(2 * unspoken * log_prior_widening)
    lowest, highest = standardised(model.manifest.outputs, model.output_range)[:, 0]
    noisiest = float(highest - lowest) ** 2  # no label is noisier than labels differ
    evidences, variances = [], []
    for scale in learner.scales:
        size = len(x) * math.log(2 * math.pi * scale**2)
        evidences.append(-0.5 * (misfit / scale**2 + volume + size))
        noise = (noisier * scale**2 * noise_query.unsqueeze(-1)).clamp_max(noisiest)
        variances.append(wider * scale**2 * within.clamp_min(0) + noise)
    return torch.stack(evidences), mean.expand(len(variances), -1, -1), torch.stack(variances)


def evidence_exponent(model: Model, rows: int) -> Tensor:
    """The exponent τ of the evidence of so many support rows, smaller where rows are correlated."""
    temperature, correlated = model.learned["log_temperature"].double().exp(), collapsed(model).correlated
    if correlated is None:
        return temperature
    correlation, (fewest, most) = model.learned["correlation"].double(), correlated
    rows = min(max(1, fewest, rows), most)
    return temperature * (1 + (REFERENCE_ROWS - 1) * correlation) / (1 + (rows - 1) * correlation)


def collapsed(model: Model) -> Collapsed:
    """The model's learner, which is `Collapsed`."""
    assert isinstance(model.learner, Collapsed)
    return model.learner
