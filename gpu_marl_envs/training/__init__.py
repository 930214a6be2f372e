"""Algorithms that train one policy per agent group on batches of environments, on either device.

env = gpu_marl_envs.make_batched("tag_continuous-v0", num_envs=256, device="cpu", autoreset_mode="SAME_STEP")
result = train(env, PPO(learning_rate=1e-3), total_steps=2_000_000, folder="runs/tag")
"""

from gpu_marl_envs.training.algorithm import Algorithm, TrainingError, algorithms
from gpu_marl_envs.training.checkpoints import Checkpoint, CheckpointError
from gpu_marl_envs.training.policies import ActorCritic, Policy, RandomPolicy
from gpu_marl_envs.training.ppo import PPO
from gpu_marl_envs.training.session import Session, TrainingResult, train

__all__ = [
    "PPO",
    "ActorCritic",
    "Algorithm",
    "Checkpoint",
    "CheckpointError",
    "Policy",
    "RandomPolicy",
    "Session",
    "TrainingError",
    "TrainingResult",
    "algorithms",
    "train",
]
