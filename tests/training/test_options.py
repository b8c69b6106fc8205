"""The options of bmaml-train: made from the configuration's dataclasses, under names that stay."""

import re
import shlex
from types import SimpleNamespace

import pytest

from bmaml.learners import learner_from, policy_from
from training import __main__ as command
from training.config import Optimisation, Shots, SinusoidConfig
from training.recipes import LEARNERS_FOR, recipe_for

RUN = "name description note seed device runs resume start-from compile store"
LEARNER = (
    "learner hidden activation particles steps step-size learn-step-size leader-steps "
    "evidence-weights no-evidence-weights fixed-precisions no-fixed-precisions mean-gradient no-mean-gradient"
)
OUTER_LOOP = (
    "meta-steps meta-batch learning-rate final-rate optimiser matrix-rate decay warmup clip evaluate-every "
    "patience"
)
REGRESSION = (
    f"{RUN} {LEARNER} {OUTER_LOOP} occam spread scales bands pointwise no-pointwise varying-noise "
    "no-varying-noise prior-widening no-prior-widening correlated no-correlated "
    "surprise no-surprise pooled no-pooled"
)
OPTIONS = {
    "sinusoid": f"{REGRESSION} shots queries tasks resplit",
    "table": f"{REGRESSION} task x y split group order shots queries drop hide "
    "support-until missing categorical resolution target levels new-classes classes ways dimensions "
    "effects factors shrinkage own-scatter no-own-scatter",
    "images": f"{RUN} {LEARNER} {OUTER_LOOP} size rgb drawing split least strict classes shots queries ways "
    "rotations augment width standard views bfloat16 dimensions backbone finetune crop mean std features-of "
    "own-scatter no-own-scatter adapt normalise",
    "world": f"{RUN} {OUTER_LOOP} episodes shaped vary horizon learner hidden activation particles steps "
    "step-size learn-step-size later-rate initial-std discount objective temperature alpha bandwidth",
    "tune": "vary trials storage prune no-prune",
    "evaluate": "store version shots support-until task split order steps",
    "plot": "store version shots support-until task split order",
}
COMMANDS = {
    "sinusoid": "sinusoid",
    "table": "table rows.csv --task t --x a --y b",
    "classes": "table rows.csv --task t --x a --y b --target classes",
    "new classes": "table rows.csv --x a --y b --new-classes",
    "images": "images folder",
    "world": "world ring",
}
"""The shortest command line of each kind of family, without a name."""


def shown(capsys):
    """The words of either stream, without frames and line breaks."""
    return " ".join(" ".join(capsys.readouterr()).replace("│", " ").split())


@pytest.fixture
def described(monkeypatch):
    """The configuration that a command line describes; neither data nor training."""
    found = []
    monkeypatch.setattr(command, "complete", lambda run: found.append(run.config))
    for name in ("Table", "Vectors", "Images"):
        monkeypatch.setattr(command, name, columns_of)

    def configuration(line):
        assert command.main(shlex.split(line)) == 0
        return found.pop()

    return configuration


def columns_of(config, seed):
    inputs, outputs = getattr(config, "x", ()), getattr(config, "y", ())
    found = SimpleNamespace(inputs=inputs, outputs=outputs, notes=(), summary="", config=config)
    found.labels = ("no", "yes") if getattr(config, "target", None) == "classes" else ()
    found.training_tasks = 10
    found.size = SimpleNamespace(ways=5)
    found.resolution, found.hints = 0.0, ()
    return found


@pytest.mark.parametrize("name", OPTIONS)
def test_every_command_has_its_options_and_no_others(name, capsys):
    with pytest.raises(SystemExit) as done:
        command.main([name, "--help"])
    assert done.value.code == 0
    found = set(re.findall(r"--([a-z][a-z0-9-]*)", capsys.readouterr().out))
    assert found - {"help"} == set(OPTIONS[name].split())


def test_help_tells_the_value_of_the_recipe(capsys):
    with pytest.raises(SystemExit):
        command.main(["sinusoid", "--help"])
    text = shown(capsys)
    assert "--particles INT M, the number of particles. (default of collapsed: 128)" in text
    assert "(default of collapsed: 0.47 2.05)" in text
    assert "(default of llama: 0.001)" in text


@pytest.mark.parametrize("name", ["sinusoid", "table", "images", "world"])
def test_every_setting_is_described(name, capsys):
    with pytest.raises(SystemExit):
        command.main([name, "--help"])
    text = shown(capsys)
    assert re.findall(r"(--[a-z-]+)(?: [^a-z ]+)* \(default", text) == []


@pytest.mark.parametrize("kind", LEARNERS_FOR)
def test_a_run_without_options_is_the_recipe_of_the_default_learner(kind, described):
    config = described(f"{COMMANDS[kind]} --name n")
    name = LEARNERS_FOR[kind][0]
    recipe = recipe_for(name, kind)
    assert (config.learner, config.optimisation) == (name, recipe.optimisation)
    named = policy_from if kind == "world" else learner_from
    learner = named(config.learner, config.settings)
    assert learner.network.hidden == recipe.hidden
    assert learner.particles == recipe.settings["particles"]


def test_given_options_override_the_recipe(described):
    config = described(
        "sinusoid --name n --shots 2:6 --queries 7 --tasks 9 --resplit --seed 3 --learner emaml "
        "--hidden 4 5 --activation tanh --evidence-weights --step-size 0.5 --learn-step-size scalar "
        "--clip 0 --decay cosine"
    )
    assert config.family == SinusoidConfig(Shots(2, 6), queries=7, tasks=9, resplit=True)
    assert config.optimisation == Optimisation(clip=0, decay="cosine")
    assert config.seed == 3
    learner = learner_from(config.learner, config.settings)
    assert (learner.network.hidden, learner.network.activation) == ((4, 5), "tanh")
    assert (learner.evidence_weights, learner.step_size, learner.learn_step_size) == (True, 0.5, "scalar")


def test_no_units_make_a_linear_map(described):
    config = described("sinusoid --name n --learner maml --hidden")
    assert config.settings["network"]["hidden"] == ()


def test_another_activation_gives_up_the_recipes_bands_but_not_given_ones(described):
    assert described("sinusoid --name n").settings["bands"] == (0.47, 2.05)
    assert "bands" not in described("sinusoid --name n --activation relu").settings
    assert described("sinusoid --name n --bands 0.5 1.5").settings["bands"] == (0.5, 1.5)


def test_columns_come_from_one_option_or_several_wherever_the_file_stands(described):
    rest = "--name n --task t --drop 0"
    once = described(f"table rows.csv {rest} --x a b:log c:log2 d:standardise --y y z")
    several = described(f"table rows.csv {rest} --x a b:log --x c:log2 --x d --y y --y z")
    last = described(f"table --x a b:log c:log2 d --y y z {rest} rows.csv")
    assert once == several == last
    assert once.family.x == (("a", "none"), ("b", "log"), ("c", "log2"), ("d", "none"))
    assert once.family.y == ("y", "z")


def test_images_may_be_coloured_and_of_few_classes(described):
    plain = described("images folder --name n")
    assert (plain.family.channels, plain.family.ways, plain.embedding["light"]) == (1, 60, True)
    other = described(
        "images folder --name n --rgb --classes 5 --learner maml --standard --width 8 --views 2"
    )
    assert (other.family.channels, other.family.ways, other.embedding["light"]) == (3, 5, False)
    assert other.settings["network"]["outputs"] == 5
    assert (other.embedding["width"], other.embedding["views"]) == (8, 2)


@pytest.mark.parametrize(("learner", "rate"), [("maml", 0.4), ("bfa", 4.0)])
def test_whole_networks_are_normalised_unless_told_otherwise(described, learner, rate):
    line = f"images folder --name n --classes 5 --learner {learner} --adapt network"
    whole, plain = described(line), described(f"{line} --normalise none --standard")
    published = described(f"{line} --normalise query --step-size 0.1 --meta-batch 32")
    assert (whole.settings["network"]["strided"], whole.settings["network"]["normalisation"]) == (
        True,
        "support",
    )
    assert (whole.settings["step_size"], whole.optimisation.meta_batch) == (rate, 4)
    assert (plain.settings["network"]["strided"], plain.settings["network"]["light"]) == (False, False)
    assert (plain.settings["step_size"], plain.optimisation.meta_batch) == (rate / 8, 1)
    assert published.settings["network"]["normalisation"] == "query"
    assert (published.settings["step_size"], published.optimisation.meta_batch) == (0.1, 32)


@pytest.mark.parametrize(
    ("line", "status", "sentence"),
    [
        ("sinusoid --name n --particles x", 2, "parsing --particles: .*'x'.* --particles INT"),
        ("sinusoid --name n --device tpu", 2, "'tpu' for argument '--device'. Expected one of"),
        ("sinusoid --name n --bands 1", 2, "argument '--bands'. Expected 2 values"),
        ("sinusoid", 2, "Missing from bmaml-train sinusoid: --name"),
        ("sinusoid --name n --nothing", 2, "Unrecognized options: --nothing"),
        ("nothing", 2, "nothing.* sinusoid, table, images, world, tune, evaluate, plot"),
        ("", 2, "Missing subcommand .*Expected one of {sinusoid, ?tab.*plot}"),  # shortened where it is long
        ("images --name n", 2, "Missing from bmaml-train images: PATH"),
        ("evaluate n", 2, "Missing from bmaml-train evaluate: DATA"),
        ("table rows.csv --name n --task t --y y", 2, "--x needs at least one column"),
        ("table rows.csv --name n --task t --x a --y", 2, "--y needs at least one column"),
        (
            "table rows.csv --name n --task t --x a:sqrt --y y",
            1,
            "'sqrt' of 'a': standardise, none, log, log2",
        ),
        ("table rows.csv --name n --task t --x a --y y --drop 1", 1, r"must lie in \[0, 1\); found 1.0"),
        ("sinusoid --name n --shots few", 1, "shots are K or LOWEST:HIGHEST; found 'few'"),
        ("sinusoid --name n --occam 1", 1, "Collapsed has no setting occam"),
        ("sinusoid --name n --learner conjugate", 1, "conjugate is no learner for numbers"),
    ],
)
def test_a_bad_value_is_reported_with_its_option_and_what_was_expected(line, status, sentence, capsys):
    try:
        found = command.main(shlex.split(line))
    except SystemExit as done:
        found = done.code
    assert found == status
    assert re.search(sentence, shown(capsys))
