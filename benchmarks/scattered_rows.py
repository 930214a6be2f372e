"""What it costs to store rows of observations in another order than that of memory, on a GPU of Hopper or later.

    python benchmarks/scattered_rows.py --json benchmarks/results/scattered_rows_gpu.json

Compiles and runs benchmarks/yardstick/scattered_rows.cu, which stores 2,000,000 rows in several ways; the figures are
medians of eleven launches, in microseconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from gpu_marl_envs.backends.cuda import _nvcc
from gpu_marl_envs.benchmarking import provenance

SOURCE = Path(__file__).parent / "yardstick" / "scattered_rows.cu"


def main() -> int:
    """Runs the program and shows what it has measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (9, 0):
        parser.error("this needs a GPU of compute capability 9.0 or later, whose copy engine stores the rows.")
    result: dict[str, Any] = {"provenance": provenance()}
    architecture = "sm_{}{}".format(*torch.cuda.get_device_capability())
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "scattered_rows")
        command = [_nvcc(), "-O3", "-std=c++17", f"-arch={architecture}", "--Werror", "all-warnings"]
        subprocess.run([*command, "-o", program, str(SOURCE)], check=True)
        output = subprocess.run([program], stdout=subprocess.PIPE, text=True, check=True).stdout
    microseconds = json.loads(output)
    for way, time in microseconds.items():
        print(f"{time:8.1f} us  {way}")
    if options.json is not None:
        options.json.write_text(json.dumps(result | {"microseconds": microseconds}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
