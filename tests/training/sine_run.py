"""A short run of bmaml-train on sine curves."""


def arguments(tmp_path, name="s", runs="runs", **changes):
    settings = {
        "learner": "bmaml",
        "particles": 3,
        "hidden": 6,
        "meta-steps": 20,
        "meta-batch": 3,
        "evaluate-every": 5,
        "shots": 4,
        "queries": 4,
        "activation": "tanh",
        "patience": 0,
        "store": tmp_path / "store",
        "runs": tmp_path / runs,
        "device": "cpu",
        **changes,
    }
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    return ["sinusoid", "--name", name, *flags]
