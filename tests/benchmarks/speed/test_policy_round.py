"""The benchmark of a policy's round posts as many steps as it says."""

from tests.benchmarks.running import run


def test_the_round_has_a_thousand_steps_of_five_particles():
    done = run("speed.policy_round")
    assert done.returncode == 0, done.stderr
    steps, particles, *_ = done.stdout.splitlines()[-1].strip("| ").split(" | ")
    assert (steps, particles) == ("1000", "5")
