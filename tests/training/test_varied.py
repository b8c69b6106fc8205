"""Options that a search varies: read by the type of the option, written as words, refused in a sentence."""

import sys

import pytest

from training.__main__ import COMMANDS, main, parsed
from training.tune import separated
from training.varied import FAMILY_OPTIONS, KINDS, ONE_WAY_SWITCHES, Range, Varied, option_types, varied

SINUSOID = ["sinusoid", "--name", "s"]
TABLE = ["table", "rows.csv", "--name", "t", "--task", "t", "--x", "a", "--y", "b"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("particles=4:32", Range(4, 32, whole=True, log=False)),
        ("particles=4:32:log", Range(4, 32, whole=True, log=True)),
        ("learning-rate=0.0001:0.01:log", Range(1e-4, 1e-2, whole=False, log=True)),
        ("--learning_rate=0:1", None),
        (
            "clip=0:1",
            Range(0, 1, whole=False, log=False),
        ),  # a number with a point, though its bounds are whole
        ("particles=8,16,32", ("8", "16", "32")),
        ("hidden=16,32 32", ("16", "32 32")),
        ("learn-step-size=default,scalar,parameter", ("default", "scalar", "parameter")),
    ],
)
def test_values_are_read_by_the_type_of_the_option(text, expected):
    (found,) = varied([text], "sinusoid", SINUSOID)
    assert found.option == text.strip("-").partition("=")[0].replace("_", "-")
    if expected is not None:
        assert found.values == expected
        assert str(found) == text


@pytest.mark.parametrize(
    ("text", "value", "words"),
    [
        ("particles=4:32", 7, ["--particles", "7"]),
        ("learning-rate=1e-4:1e-2:log", 0.00123456, ["--learning-rate", "0.001235"]),
        ("hidden=16,32 32", "32 32", ["--hidden", "32", "32"]),
        ("learn-step-size=default,scalar", "default", []),
        ("pooled=true,false", "true", ["--pooled"]),
        ("pooled=true,false", "false", ["--no-pooled"]),
        ("resplit=true,false", "true", ["--resplit"]),
        ("resplit=true,false", "false", []),
    ],
)
def test_a_value_becomes_words_of_the_command_line(text, value, words):
    (found,) = varied([text], "sinusoid", SINUSOID)
    assert found.words(value) == words


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("particles", "OPTION=LOW:HIGH"),
        ("shots=1:5", "no option of sinusoid that a search may vary"),
        ("seed=1:5", "no option of sinusoid that a search may vary"),
        ("lerning-rate=1:2", "no option of sinusoid that a search may vary"),
        ("particles=8", "two or more different words"),
        ("particles=8,8", "two or more different words"),
        ("particles=1.5:2", "takes whole numbers"),
        ("clip=a:b", "takes numbers"),
        ("clip=2:1", "a range rises"),
        ("clip=0:1:log", "both positive for a logarithm"),
        ("clip=0:1:square", "LOW:HIGH:log"),
        ("hidden=16:64", "no number that has a range"),
        ("pooled=yes,no", "true or false; found 'yes'"),
    ],
)
def test_values_that_make_no_search_are_refused(text, sentence, capsys):
    assert main(["tune", "--vary", text, *SINUSOID]) in (1, 2)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "status", "sentence"),
    [
        (["tune", "--vary", "clip=1:2", *SINUSOID, "--clip", "3"], 1, "--clip is given and varied"),
        (
            ["tune", "--vary", "pooled=true,false", *SINUSOID, "--no-pooled"],
            1,
            "--pooled is given and varied",
        ),
        (["tune", "--vary", "clip=1:2", "clip=3,4", *SINUSOID], 1, "names clip twice"),
        (["tune", "--trials", "0", *SINUSOID], 1, "at least one trial"),
        (["tune", *SINUSOID, "--resume"], 1, "leave --resume out"),
        (["tune", *TABLE[:-1], "b:auto"], 1, "name the kind"),
        (["tune", "--trials", "3"], 2, "needs the training to repeat"),
        (["tune", "evaluate", "s", "sinusoid"], 2, "needs the training to repeat"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(line, status, sentence, capsys):
    assert main(line) == status
    assert sentence in capsys.readouterr().err


def test_a_word_that_the_training_cannot_read_is_refused_before_the_first_trial(capsys):
    with pytest.raises(SystemExit) as done:
        main(["tune", "--vary", "activation=tanh,rleu", *SINUSOID])
    assert done.value.code == 2
    assert "rleu" in "".join(capsys.readouterr())


def test_a_search_is_one_process_for_each_trial(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["tune", *SINUSOID]) == 1
    assert "instead of torchrun" in capsys.readouterr().err


def test_without_optuna_the_sentence_says_what_to_install(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "training.search", raising=False)
    monkeypatch.delitem(sys.modules, "training.study", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["tune", *SINUSOID]) == 1
    assert "pip install 'bmaml-service[tune]'" in capsys.readouterr().err


def test_the_training_begins_at_its_command_and_keeps_its_own_options():
    line = ["tune", "--vary", "particles=2,3", "world", "gym:P", "--vary", "g=1:2", "--name", "w"]
    assert separated(line) == [*line[:3], "--", *line[3:]]
    assert separated(separated(line)) == separated(line)
    assert separated(["table", "x"]) == ["table", "x"]
    search = parsed(separated(line)).args or tuple(parsed(separated(line)).keywords.values())
    assert search[0].vary == ("particles=2,3",)
    assert search[0].training == tuple(line[3:])


@pytest.mark.parametrize("command", KINDS)
def test_every_option_that_may_vary_is_one_of_its_command(command, capsys):
    assert command in {each.__name__ for each in COMMANDS}
    with pytest.raises(SystemExit):
        main([command, "--help"])
    told = capsys.readouterr().out
    for option in option_types(command):
        assert f"--{option}" in told
    for option, kind in FAMILY_OPTIONS[command].items():
        assert (f"--no-{option}" not in told) if kind is bool else True
        assert (option in ONE_WAY_SWITCHES) == (kind is bool)


def test_an_option_written_with_its_range_reads_back():
    each = Varied("learning-rate", Range(1e-3, 0.5, whole=False, log=True))
    assert varied([str(each)], "table", TABLE) == (each,)
