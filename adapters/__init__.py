"""Other libraries' interfaces over :class:`~gpu_marl_envs.batched.BatchedEnv`, each in a module of its own."""
