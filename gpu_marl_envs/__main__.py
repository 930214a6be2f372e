"""``python -m gpu_marl_envs`` is the command ``gpu-marl``."""

import sys

from gpu_marl_envs.cli import main

sys.exit(main())
