"""Algorithms that train policies on batches of environments, on either device.

env = gpu_marl_envs.make_batched("tag_continuous-v0", num_envs=256, device="cpu", autoreset_mode="SAME_STEP")
result = train(env, PPO(learning_rate=1e-3), total_steps=2_000_000, folder="runs/tag")
"""

from gpu_marl_envs.training.a2c import A2C
from gpu_marl_envs.training.algorithm import Algorithm, TrainingError, algorithms
from gpu_marl_envs.training.checkpoints import Checkpoint, CheckpointError
from gpu_marl_envs.training.learner import PolicySpec
from gpu_marl_envs.training.networks import MLP, Interface, SeparableNetwork
from gpu_marl_envs.training.policies import ActorCritic, Policy, RandomPolicy
from gpu_marl_envs.training.ppo import PPO
from gpu_marl_envs.training.randomness import RandomStream
from gpu_marl_envs.training.schedule import Schedule
from gpu_marl_envs.training.session import Session, TrainingResult, resume, train

__all__ = [
    "A2C",
    "MLP",
    "PPO",
    "ActorCritic",
    "Algorithm",
    "Checkpoint",
    "CheckpointError",
    "Interface",
    "Policy",
    "PolicySpec",
    "RandomPolicy",
    "RandomStream",
    "Schedule",
    "SeparableNetwork",
    "Session",
    "TrainingError",
    "TrainingResult",
    "algorithms",
    "resume",
    "train",
]
