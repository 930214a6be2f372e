"""PPO reaches scores that are known of classic control: a solved CartPole, a swift Acrobot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.training import PPO, train
from gpu_marl_envs.training.evaluate import evaluate

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.mark.parametrize(
    ("env_id", "score", "copies", "total_steps", "hyperparameters"),
    [
        (
            "cartpole-v1",
            475.0,
            32,
            100_000,
            dict(rollout_steps=32, epochs=10, discount=0.98, gae_lambda=0.9, entropy_coefficient=0.0),
        ),
        ("acrobot-v1", -90.0, 64, 1_500_000, dict(rollout_steps=64, minibatches=8)),
    ],
    ids=["cartpole", "acrobot"],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_ppo_reaches_the_known_score(
    make: Callable[..., BatchedEnv],
    env_id: str,
    score: float,
    copies: int,
    total_steps: int,
    hyperparameters: dict[str, Any],
    seed: int,
) -> None:
    env = make(env_id, copies, seed=seed, autoreset_mode="SAME_STEP")
    algorithm = PPO(learning_rate="0:1e-3,1:0", **hyperparameters)
    result = train(env, algorithm, total_steps=total_steps, seed=seed, progress=False)
    episodes = make(env_id, 256, seed=100 + seed, autoreset_mode="DISABLED")
    reached = evaluate(episodes, result.policies, seed=seed)["agent"].episode_return
    assert reached.mean >= score, f"{reached} after {total_steps} steps"
