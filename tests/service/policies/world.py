"""A point that walks in the plane and is paid near a goal, stepped by whoever acts."""

import numpy as np

GOAL = np.array([0.3, -0.2])
STEPS = 4


def episodes_of(act, number, particles, each=2, steps=STEPS, ragged=True):
    """A round of episodes, each acted by a particle.

    Args:
        act: from observations `[episode, 2]`, a particle and a seed to actions.
        each: episodes of a particle.
    """
    found = []
    for particle in particles:
        places = np.zeros((each, 2))
        seen, acted, paid = [], [], []
        for step in range(steps):
            actions = np.asarray(act(places, particle, 1000 * number + 100 * particle + step))
            seen.append(places.copy())
            acted.append(actions)
            places = places + 0.1 * np.clip(actions, -1, 1)
            paid.append(-np.linalg.norm(places - GOAL, axis=-1))
        for episode in range(each):
            length = steps - episode if ragged else steps
            found.append(
                {
                    "round": number,
                    "particle": particle,
                    "observations": [row[episode].tolist() for row in seen[:length]],
                    "actions": [row[episode].tolist() for row in acted[:length]],
                    "rewards": [float(row[episode]) for row in paid[:length]],
                    "ended": True,
                }
            )
    return found


def over_http(client, name="walker", posterior=None):
    """Actions that the service answers."""

    def act(places, particle, seed):
        body = {"model": name, "query": {"x": places.tolist()}, "act": {"particle": particle, "seed": seed}}
        body |= {"support": {"episodes": []}} if posterior is None else {"posterior": posterior}
        reply = client.post("/adapt-predict", json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()["prediction"]["action"]

    return act


def kept(client, episodes, posterior=None, name="walker"):
    """The reply of keeping the posterior after these episodes."""
    body = {"model": name, "support": {"episodes": episodes}, "posterior": posterior}
    reply = client.post("/posteriors", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()
