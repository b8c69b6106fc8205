"""Native functions and tensor code give the same answers, whatever the model and the question."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.speed.native_floor import Rates, floor_ms
from bmaml.learners import Diverged
from bmaml.learners.pooled import Pooled
from bmaml.learners.surprise import Surprise
from bmaml.task import Examples
from model_store import SHIPPED, Store
from model_store.model import NEGLIGIBLE_WEIGHT
from service.compute import native_path
from service.compute.regression import believe, nll_before, predict_batch
from service.job import Answer, Job, PostedSupport, PredictionSpec, SelectionSpec
from tests.published import KINDS, SIZE, X, Y, Z, publish

pytestmark = pytest.mark.timeout(1200)  # the first session compiles

LEVELS = (0.05, 0.3, 0.5, 0.95)
ROWS = ((0, 4), (1, 1), (3, 20), (9, 17), (40, 5))
"""Support and query rows of the tasks of a batch; the last has more rows than features."""
RANDOM = {
    "plain": {"scales": (0.5, 1.0, 2.0), "particles": 6},
    "noisy": {"varying_noise": True, "correlated": (0, 20), "prior_widening": True, "resolution": 0.01},
    "even": {"evidence_weights": False},
    "surprised": {"surprise": Surprise(), "particles": 5, "varying_noise": True},
    "pooled": {"surprise": Surprise(), "pooled": Pooled(frequencies=3), "inputs": (X, SIZE)},
    "pooled alone": {"pooled": Pooled(frequencies=5)},
    "two outputs": {"inputs": (X, SIZE), "outputs": (Y, Z), "hidden": (5,), "surprise": Surprise()},
    "kinds": {"inputs": (X, SIZE), "outputs": tuple(KINDS.values()), "surprise": Surprise()},
    "linear": {"hidden": (), "scales": (0.5, 2.0)},
    "deep": {"hidden": (4, 5, 6)},
}


def random_model(folder: Path, name: str):
    settings = dict(RANDOM[name])
    model = publish(folder, "random", seed=len(name), **settings)
    generator = torch.Generator().manual_seed(len(name))
    learned = dict(model.learned)
    for each, spread in (("noise_slopes", 0.3), ("pooled_noise", 0.3), ("pooled_means", 0.3)):
        if each in learned:
            learned[each] = spread * torch.randn(learned[each].shape, generator=generator)
    if "pooled_roots" in learned:
        learned["pooled_roots"] = torch.tril(torch.randn(learned["pooled_roots"].shape, generator=generator))
        learned["pooled_roots"][0, 4:] = 0
    for each, value in {
        "log_widening": 0.2,
        "log_prior_widening": -0.3,
        "log_temperature": -0.4,
        "log_softened": math.log(0.05),
        "log_pooled_widening": 0.1,
    }.items():
        if each in learned:
            learned[each] = torch.tensor(value)
    return replace(model, learned=learned)


def job_of(model, support, query, seed, spec=None, far=False):
    random = np.random.default_rng(seed)
    low, high = model.standardised_range.numpy()
    reach = 1.5 if far else 0.95
    middle, half = (low + high) / 2, reach * (high - low) / 2
    x = (middle + half * random.uniform(-1, 1, (support, len(low)))).astype(np.float32)
    query_x = (middle + half * random.uniform(-1, 1, (query, len(low)))).astype(np.float32)
    outputs = len(model.manifest.outputs)
    y = (np.sin(2 * x[:, :1]) + 0.2 * random.standard_normal((support, outputs))).astype(np.float32)
    targets = random.standard_normal((query, outputs))
    spec = spec or PredictionSpec(LEVELS)
    posted = PostedSupport(x, tuple(y[:, 0].tolist()))
    return Job(model, x, y, query_x, 0, 0, spec, float("inf"), posted=posted, query_y=targets)


def in_double(model):
    return replace(model, learned={name: each.double() for name, each in model.learned.items()})


def close(found, expected, scale, where):
    """Within 1e-5 of the expected values, or of the scale where it is given."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    assert np.isfinite(found).all(), where
    bound = 1e-5 * np.maximum(np.abs(expected), 0 if scale is None else scale) + 1e-12
    worst = (np.abs(found - expected) / bound).max(initial=0)
    assert worst <= 1, f"{where}: {worst:.2f} × 1e-5"


def assert_as_in_double(model, jobs):
    """Native answers are within 1e-5 of those of tensor code in double precision."""
    exact = in_double(model)
    answers, _ = native_path.predict_numbers(jobs)
    for job, answer in zip(jobs, answers, strict=True):
        x, y, query = (
            torch.from_numpy(each).double()[None] for each in (job.support_x, job.support_y, job.query_x)
        )
        support = Examples.full(x, y)
        levels = torch.tensor([job.spec.levels], dtype=torch.float64)
        with torch.inference_mode():
            posterior = exact.learner.adapt_pruned(exact.learned, support, NEGLIGIBLE_WEIGHT, 0)
            _, tensors = believe(
                exact, posterior, support, query, levels, targets=torch.from_numpy(job.query_y)[None]
            )
            before = float(nll_before(exact, support))
            effective = float(exact.learner.effective_particles(posterior))
        after, mean, aleatoric, epistemic, quantiles, *_, log_density = tensors
        std = (aleatoric + epistemic).sqrt()[0].numpy()
        outputs = len(model.manifest.outputs)
        shape = len(job.query_x), outputs
        result = answer.result
        close(np.reshape(result.mean, shape), mean[0], std, "mean")
        close(np.reshape(result.std, shape), std, None, "std")
        close(np.reshape(result.variance.aleatoric, shape), aleatoric[0], std**2, "aleatoric")
        close(np.reshape(result.variance.epistemic, shape), epistemic[0], std**2, "epistemic")
        found = [*result.quantiles.values, result.interval.lower, result.interval.upper]
        close(np.reshape(found, (-1, *shape)), quantiles[0], std, "quantiles")
        close(np.reshape(result.log_density, shape), log_density[0], 1.0, "log density")
        close(answer.effective_particles, effective, None, "effective particles")
        if len(job.support_x):
            close(answer.support_nll, (before, float(after[0])), 1.0, "nll")
        if answer.surprise is not None:
            groups = posterior.group_weights[0].tolist()
            close(list(vars(answer.surprise).values()), groups[1:4], 1.0, "surprise")


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("name", RANDOM)
def test_random_learners_answer_as_tensor_code_in_double_precision(native, tmp_path, name, far):
    model = random_model(tmp_path, name)
    assert_as_in_double(model, [job_of(model, *rows, seed, far=far) for seed, rows in enumerate(ROWS)])


def exact_versions():
    names = ["sinusoid", "learning-curves", "learning-curves-by-classifier", "pass-rates"]
    return [each for each in names if each in Store(SHIPPED).names()]


@pytest.mark.parametrize("name", exact_versions())
def test_shipped_models_answer_as_tensor_code_in_double_precision(native, name):
    model = Store(SHIPPED).load(name, None)
    for far in (False, True):
        assert_as_in_double(model, [job_of(model, *rows, seed, far=far) for seed, rows in enumerate(ROWS)])


@pytest.mark.parametrize("size", [1e3, 1e6])
def test_labels_in_a_wrong_unit_are_answered_as_by_tensor_code(native, size):
    model = Store(SHIPPED).load("sinusoid", None)
    jobs = [job_of(model, *rows, seed) for seed, rows in enumerate(ROWS)]
    assert_as_in_double(
        model, [replace(job, support_y=job.support_y * size, query_y=job.query_y * size) for job in jobs]
    )


@pytest.mark.parametrize(("year", "tolerance"), [(7e4, 0.1), (1.7e9, 1.0)])
@pytest.mark.parametrize("rows", [2, 6, 12])
def test_rows_so_far_that_a_factorisation_fails_are_answered_by_both(native, rows, year, tolerance):
    """As where a year is given as a date's seconds; the farther, the more is lost to rounding."""
    model = Store(SHIPPED).load("pass-rates", None)
    job = job_of(model, rows, 4, seed=rows)
    place = [column.name for column in model.manifest.inputs].index("year")
    far = model.standardised_inputs(np.full((1, len(model.manifest.inputs)), year))[0, place]
    for x in (job.support_x, job.query_x):
        x[:, place] = far
    with torch.inference_mode():
        (expected,), _ = predict_batch([replace(job, query_y=None)])
        (found,), _ = native_path.predict_numbers([replace(job, query_y=None)])
    std = np.asarray(expected.result.std)
    assert np.isfinite(std).all()
    assert (np.abs(np.asarray(found.result.mean) - expected.result.mean) < tolerance * std).all()
    np.testing.assert_allclose(found.result.std, std, rtol=tolerance)


def test_every_shipped_exact_learner_of_numbers_is_held_to_it():
    store = Store(SHIPPED)
    manifests = [store.load(name, None).manifest for name in store.names()]
    exact = [each.name for each in manifests if (each.kind, each.learner) == ("regression", "collapsed")]
    assert sorted(exact) == sorted(exact_versions())


QUESTIONS = {
    "particles": PredictionSpec(LEVELS, particles=True),
    "no quantiles": PredictionSpec((), interval=0.5),
    "conformal": PredictionSpec(LEVELS, interval_method="conformal"),
    "adapt": None,
    "choose": "epistemic_variance",
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("name", ["surprised", "kinds"])
def test_alone_kept_and_asked_again_the_answer_is_the_one_of_tensor_code(native, tmp_path, name, question):
    from tests.published import conformal

    model = random_model(tmp_path, name)
    rows, outputs = 6, len(model.manifest.outputs)
    if question == "conformal":
        model = replace(model, manifest=model.manifest.model_copy(update={"conformal": conformal(outputs)}))
    spec = QUESTIONS[question]
    if isinstance(spec, str):
        uniform = (np.arange(rows) + 0.5) / rows
        spec = SelectionSpec(spec, "top_k", 3, rows, uniform, np.zeros(rows, bool), None, False)
    job = replace(job_of(model, 5, rows, 3), spec=spec, query_y=None)
    if spec is None:
        job = replace(job, query_x=job.query_x[:0])
    with torch.inference_mode():
        (expected,), _ = predict_batch([job])
        (alone,), _ = native_path.predict_numbers([job])
        (fresh,), _ = native_path.predict_numbers([replace(job, key="a")])
        kept = replace(job, key="a", kept=fresh.kept)
        (again,), _ = native_path.predict_numbers([kept])
        (by_tensors,), _ = predict_batch([kept])
    assert again.cached
    assert fresh.kept is not None
    for found in (alone, fresh, again, by_tensors):
        assert found.effective_particles == pytest.approx(expected.effective_particles, rel=1e-5)
        assert found.support_nll == pytest.approx(expected.support_nll, rel=1e-4, abs=1e-5)
        assert type(found.result) is type(expected.result)
        if question == "choose":
            assert found.result.indices == expected.result.indices
            np.testing.assert_allclose(found.result.scores, expected.result.scores, rtol=1e-4)
        elif question != "adapt":
            np.testing.assert_allclose(found.result.mean, expected.result.mean, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found.result.interval.upper, expected.result.interval.upper, rtol=1e-4)
        if question == "particles":
            found_std, std = found.result.particles.std, expected.result.particles.std
            shared = min(len(found_std), len(std))
            np.testing.assert_allclose(found_std[:shared], std[:shared], rtol=1e-3)


def test_the_company_and_a_poisoned_neighbour_change_nothing(native, tmp_path):
    model = random_model(tmp_path, "surprised")
    jobs = [job_of(model, *rows, seed) for seed, rows in enumerate(ROWS)]
    poisoned = replace(jobs[2], support_y=np.full_like(jobs[2].support_y, 3e38))
    together, _ = native_path.predict_numbers([*jobs[:2], poisoned, *jobs[2:]])
    assert isinstance(together[2], Diverged)
    del together[2]
    for job, found in zip(jobs, together, strict=True):
        (alone,), _ = native_path.predict_numbers([job])
        np.testing.assert_array_equal(found.result.mean, alone.result.mean)
        np.testing.assert_array_equal(found.result.quantiles.values, alone.result.quantiles.values)


@pytest.mark.parametrize("key", [None, "kept"])
@pytest.mark.parametrize(("size", "kind"), [(1e17, Answer), (1e20, Diverged)])
def test_a_variance_beyond_single_precision_is_refused(native, tmp_path, key, size, kind):
    job = replace(job_of(random_model(tmp_path, "even"), 5, 4, 0), query_y=None, key=key)
    (found,), _ = native_path.predict_numbers([replace(job, support_y=job.support_y * np.float32(size))])
    assert isinstance(found, kind)


def test_threads_change_nothing(native, tmp_path):
    model = random_model(tmp_path, "noisy")
    jobs = [job_of(model, *ROWS[seed % len(ROWS)], seed) for seed in range(7)]
    one, _ = native_path.predict_numbers(jobs)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        three, _ = native_path.predict_numbers(jobs)
    finally:
        torch.set_num_threads(before)
    for left, right in zip(one, three, strict=True):
        np.testing.assert_array_equal(left.result.mean, right.result.mean)


def test_steps_and_joint_selections_are_tensor_code(native, tmp_path):
    model = random_model(tmp_path, "plain")
    job = job_of(model, 3, 5, 0)
    uniform = (np.arange(5) + 0.5) / 5
    joint = SelectionSpec("epistemic_variance", "bait", 3, 5, uniform, np.zeros(5, bool), None, True)
    assert native_path.is_native([job])
    assert not native_path.is_native([replace(job, steps=2)])
    assert not native_path.is_native([replace(job, spec=joint)])
    assert not native_path.is_native([replace(job, model=publish(tmp_path, "bare", "bmaml", step_size=1e-3))])


def test_the_floor_of_an_answer_adds_up_over_tasks_and_grows_with_what_is_asked(native, tmp_path):
    model, rates = random_model(tmp_path, "kinds"), Rates(flops=2e10, functions=5e8)
    one, other, longer = (job_of(model, *rows, 1) for rows in ((3, 4), (9, 4), (3, 8)))
    alone = [floor_ms([each], rates) for each in (one, other, longer)]
    assert floor_ms([one, other, longer], rates) == pytest.approx(sum(alone))
    assert 0 < alone[0] < min(alone[1:])
    assert floor_ms([one], Rates(4e10, 1e9)) == pytest.approx(alone[0] / 2)
