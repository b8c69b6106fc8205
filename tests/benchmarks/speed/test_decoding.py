"""The decoding benchmark times the three formats of a body."""

from tests.benchmarks.running import run


def test_each_format_has_a_line():
    done = run("speed.decoding", "--rows", "5", "--columns", "2")
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [
        "JSON",
        "base64 in JSON",
        "safetensors",
    ]
