"""The command line, through its entry point: what it prints, what it writes, and one line for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import gpu_marl_envs
from gpu_marl_envs import cli, registry
from gpu_marl_envs.cli import main
from gpu_marl_envs.training import Checkpoint, Session

Run = Callable[..., str]
TINY = ["--num-envs", "4", "--device", "cpu", "--ppo.rollout-steps", "8", "--ppo.hidden-size", "8"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command that must succeed, and returns what it printed."""

    def run(*words: str | Path) -> str:
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def checkpoint(tmp_path: Path, run: Run) -> Path:
    """A little training of gridworld policies."""
    run("train", "tag_gridworld-v0", *TINY, "--total-steps", "1", "--out", tmp_path, "--env.episode-length", "9")
    return tmp_path / "checkpoint.pt"


# ---- what works ----


def test_list(run: Run) -> None:
    printed = run("list")
    for env_id in gpu_marl_envs.ids():
        assert env_id in printed


@pytest.mark.parametrize("env_id", gpu_marl_envs.ids())
def test_info(run: Run, env_id: str) -> None:
    printed = run("info", env_id)
    declaration = gpu_marl_envs.registry.get(env_id)
    assert "## Rewards" in printed
    for parameter in declaration.parameters():
        assert f"{parameter.name} = {parameter.default!r}" in printed
        assert parameter.valid in printed
        assert parameter.unit in printed
    for group in declaration.make().agent_groups:
        assert str(group.action_space) in printed


def test_train_takes_parameters_and_hyperparameters(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(
        "train", "--seed", "3", *TINY, "--env.num-taggers", "3", "--env.use-full-observation=false", "tag_gridworld-v0",
        "--env.start", "fixed", "--ppo.learning-rate", "1e-3", "--total-steps", "1e2", "--out", out,
    )  # fmt: skip
    checkpoint = Checkpoint.load(out / "checkpoint.pt")
    assert (out / "metrics.csv").read_text().startswith("iteration,agent_steps,")
    assert checkpoint.env_id == "tag_gridworld-v0"
    assert checkpoint.env_params["num_taggers"] == 3
    assert checkpoint.env_params["use_full_observation"] is False
    assert checkpoint.env_params["start"] == "fixed"
    assert checkpoint.hyperparameters["learning_rate"] == 1e-3
    assert checkpoint.seed == 3
    assert checkpoint.agent_steps == 4 * 4 * 8


def test_train_chooses_a_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    printed = run("train", "tag_gridworld-v0", *TINY, "--total-steps", "1")
    (path,) = tmp_path.glob("runs/tag_gridworld-v0/*/checkpoint.pt")
    assert str(path.relative_to(tmp_path)) in printed


def test_train_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(session: Session, *_: object) -> None:
        session.interrupted = True
        original(session, *_)

    original = Session.finish_iteration
    monkeypatch.setattr(Session, "finish_iteration", interrupt)
    assert main(["train", "tag_gridworld-v0", *TINY, "--total-steps", "1e6", "--out", str(tmp_path)]) == 130
    assert Checkpoint.load(tmp_path / "checkpoint.pt").iteration == 1


def test_play(run: Run, checkpoint: Path) -> None:
    gif = checkpoint.with_name("game.gif")
    for options, longest in (([], 10), (["--steps", "15", "--random", "tagger", "runner"], 16)):
        assert str(gif) in run("play", checkpoint, "--gif", gif, "--device", "cpu", *options)
        with Image.open(gif) as picture:
            assert 1 < picture.n_frames <= longest
            assert picture.size[0] > 100


def test_eval(run: Run, checkpoint: Path) -> None:
    printed = run("eval", checkpoint, "--episodes", "20", "--device", "cpu")
    assert "20 episodes" in printed
    for mix in ("trained  trained", "trained  random", "random   trained", "random   random"):
        assert f"\n{mix} " in printed


def test_bench(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    words = ("bench", "tag_gridworld-v0", "--num-envs", "8", "32", "--env.num-taggers", "4", "--device", "cpu")
    words += ("--obs-dtype", "bfloat16")
    printed = run(*words, "--state", "fresh", "played", "--seconds", "0.005", "--json", out)
    assert printed.count("agent-steps/s") == 4
    written = json.loads(out.read_text())
    assert written["provenance"]["torch"] == torch.__version__
    results = written["results"]
    cases = [(result["num_envs"], result["state"]) for result in results]
    assert cases == [(8, "fresh"), (8, "played"), (32, "fresh"), (32, "played")]
    for result in results:
        assert result["num_agents"] == 5 and result["obs_dtype"] == "bfloat16"
        assert result["params"]["num_taggers"] == 4
        assert result["agent_steps_per_second"] == pytest.approx(5 * result["env_steps_per_second"])
        assert result["agent_steps_per_second"] > 1e4


def test_auto_takes_the_cpu_and_says_why_where_there_is_no_gpu(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    printed = run("train", "tag_gridworld-v0", "--num-envs", "2", "--total-steps", "1")
    assert printed.startswith("device: cpu (")


@pytest.mark.gpu
def test_auto_takes_the_gpu(run: Run, tmp_path: Path) -> None:
    printed = run("train", "tag_gridworld-v0", "--num-envs", "2", "--total-steps", "1", "--out", tmp_path)
    assert printed.startswith("device: cuda")


@pytest.mark.parametrize("words", [["--help"], ["train", "tag_continuous-v0", "--help"], ["train", "--help"]], ids=str)
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(words)
    assert exit_code.value.code == 0
    printed = capsys.readouterr().out
    if len(words) == 3:
        assert "--env.num-taggers" in printed
        assert "--ppo.clip-range" in printed
        assert "[radians]" in printed


@pytest.mark.parametrize("module", ["gpu_marl_envs", "gpu_marl_envs.cli"])
def test_python_dash_m(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "list"], capture_output=True, text=True, check=True)
    assert "tag_gridworld-v0" in done.stdout


# ---- what users get wrong ----


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["info", "tag_gridwrld-v0"], "did you mean 'tag_gridworld-v0'"),
        (["train", "tag_gridwrld-v0"], "did you mean 'tag_gridworld-v0'"),
        (["train"], "the following arguments are required: ENV"),
        ([], "the following arguments are required: COMMAND"),
        (["trian", "tag_gridworld-v0"], "invalid choice: 'trian'"),
        (["train", "tag_gridworld-v0", "--env.num-tagers", "3"], "did you mean '--env.num-taggers'"),
        (["train", "tag_gridworld-v0", "--env.num-taggers", "three"], "invalid int value: 'three'"),
        (["train", "tag_gridworld-v0", "--env.num-taggers", "0"], "num_taggers must be a whole number"),
        (["train", "tag_gridworld-v0", "--env.use-full-observation", "perhaps"], "expected true or false"),
        (["train", "tag_gridworld-v0", "--env.start", "middle"], "invalid choice: 'middle'"),
        (["train", "simple_tag-v3", "--env.num-agent-neighbors", "few"], "expected a whole number or none, not 'few'"),
        (["train", "simple_tag-v3", "--env.num-agent-neighbors", "0"], "a whole number from 1 to 1000 or None"),
        (["train", "tag_gridworld-v0", "--ppo.discount", "2"], "discount must be a number from 0 to 1"),
        (["train", "tag_gridworld-v0", "--ppo.discout", "1"], "did you mean '--ppo.discount'"),
        (["train", "tag_gridworld-v0", "--algo", "dqn"], "There is no algorithm 'dqn'"),
        (["train", "tag_gridworld-v0", "--total-steps", "-5"], "expected a positive whole number"),
        (["train", "tag_gridworld-v0", "--num-envs", "many"], "expected a positive whole number"),
        (["train", "tag_gridworld-v0", "--device", "tpu"], "device"),
        (["train", "tag_gridworld-v0", "stray"], "no option stray"),
        (["play", "missing.pt", "--gif", "x.gif"], "There is no checkpoint missing.pt"),
        (["play", "missing.pt"], "the following arguments are required: --gif"),
        (["eval", "."], "not a readable checkpoint"),
        (["bench", "tag_gridworld-v0", "--env.episode-length", "0"], "episode_length must be a whole number"),
        (["bench", "tag_gridworld-v0", "--state", "old"], "invalid choice: 'old'"),
        (["bench", "tag_gridworld-v0", "--seconds", "-1"], "expected a positive number of seconds"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("gpu-marl: ")
    assert list(tmp_path.iterdir()) == []


def test_mistakes_about_a_checkpoint(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    for words, message in (
        (["play", checkpoint, "--gif", checkpoint.parent / "no" / "x.gif"], "no folder"),
        (["play", checkpoint, "--gif", checkpoint.parent / "x.gif", "--random", "taggers"], "did you mean 'tagger'"),
    ):
        assert main([*map(str, words), "--device", "cpu"]) == 2
        printed = capsys.readouterr().err
        assert message in printed
        assert printed.count("\n") == 1


def test_interrupting_a_command_prints_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_list", interrupted)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "gpu-marl: interrupted.\n"


def test_an_environment_of_the_users_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    declaration = (Path(__file__).parent / "environments" / "probe.py").read_text().replace("probe-v0", "mine-v0")
    (tmp_path / "my_probe.py").write_text(declaration + "\n\ngpu_marl_envs.register(Probe)\n")
    text = (
        (tmp_path / "my_probe.py")
        .read_text()
        .replace("import numpy as np\n", "import gpu_marl_envs\nimport numpy as np\n")
    )
    (tmp_path / "my_probe.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    try:
        assert main(["info", "--import", "my_probe", "mine-v0"]) == 0
        assert "mine-v0" in capsys.readouterr().out
        assert main(["list", "--import", "no_such_module"]) == 2
        assert "'no_such_module'" in capsys.readouterr().err
    finally:
        registry._registered.pop("mine-v0", None)
        sys.modules.pop("my_probe", None)
