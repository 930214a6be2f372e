"""Pictures of policies at play."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gpu_marl_envs.batched import BatchedEnv
from gpu_marl_envs.rendering import render_state
from gpu_marl_envs.training.evaluate import act
from gpu_marl_envs.training.policies import Policy
from gpu_marl_envs.training.randomness import RandomStream


def play_frames(
    env: BatchedEnv, policies: Mapping[str, Policy], *, steps: int | None = None, seed: int = 0
) -> list[np.ndarray]:
    """Pictures of a game in the first copy, one before every step and one at the end.

    Args:
        env: is reset first.
        policies: one per group.
        steps: number of steps; by default until the episode is over.
        seed: of the start and the actions.

    Returns:
        uint8 ``[height, width, 3]`` each.

    Raises:
        BackendUnavailableError: pygame is not installed.
    """

    def picture() -> np.ndarray:
        state = {name: tensor[0].cpu().numpy() for name, tensor in env.state.fields().items()}
        state["alive"] = env.alive[0].cpu().numpy()
        return render_state(env.declaration, state | {"step": int(env.state.step[0])})

    random = RandomStream(seed, env.device)
    observation = env.reset(seed=seed)
    frames = [picture()]
    while len(frames) <= (env.declaration.max_steps if steps is None else steps):
        observation, *_, info = env.step(act(env, policies, observation, random))
        frames.append(picture())
        if steps is None and bool(info["done"][0]):
            break
    return frames
