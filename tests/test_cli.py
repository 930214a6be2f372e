"""The command line, through its entry point: what it prints, what it writes, and one line for every mistake."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gpu_marl_envs
from gpu_marl_envs import cli, registry, video
from gpu_marl_envs.cli import main
from gpu_marl_envs.cli_training import FRAMES_PER_SECOND
from gpu_marl_envs.errors import BackendUnavailableError, ParameterError
from gpu_marl_envs.training import Checkpoint, Session, algorithms, autoscale
from gpu_marl_envs.training.config import RunConfig

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
    for policy in checkpoint.policies.values():
        assert policy["settings"]["learning_rate"] == 1e-3
        assert policy["settings"]["rollout_steps"] == 8
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

    original = Session._finish_iteration
    monkeypatch.setattr(Session, "_finish_iteration", interrupt)
    assert main(["train", "tag_gridworld-v0", *TINY, "--total-steps", "1e6", "--out", str(tmp_path)]) == 130
    assert Checkpoint.load(tmp_path / "checkpoint.pt").iteration == 1


def test_train_takes_a_file_and_flags(run: Run, tmp_path: Path) -> None:
    """Flags count before the file, and policies before what holds for all."""
    file = tmp_path / "run.yaml"
    file.write_text(
        """
        environment: tag_continuous-v0
        num_envs: 4
        device: cpu
        total_steps: 1e2
        seed: 3
        env: {num_taggers: 2, num_runners: 3, grid_length: 1e1}
        ppo: {rollout_steps: 8, hidden_size: 8, learning_rate: {0: 1e-3, 1: 0}, discount: 0.9}
        policies:
          prey: {groups: [runner], algorithm: a2c, rollout_steps: 8, rmsprop_decay: 0.5}
          hunters: {groups: tagger, clip_range: "0:0.3,1:0.1"}
        """
    )
    run(
        "train", "--config", file, "--env.num-taggers", "1", "--ppo.discount", "0.8", "--out", tmp_path / "a",
        "--policies.hunters.gae-lambda=0.5", "--policies.prey.frozen", "yes",
    )  # fmt: skip
    checkpoint = Checkpoint.load(tmp_path / "a")
    assert checkpoint.env_params["num_taggers"] == 1 and checkpoint.env_params["num_runners"] == 3
    prey, hunters = (checkpoint.policies[name] for name in ("prey", "hunters"))
    assert prey["groups"] == ["runner"] and prey["algorithm"] == "a2c" and prey["frozen"]
    assert prey["settings"]["rmsprop_decay"] == 0.5 and prey["settings"]["discount"] == 0.99
    settings = hunters["settings"]
    assert (settings["discount"], settings["gae_lambda"]) == (0.8, 0.5)
    assert settings["clip_range"] == "0.0:0.3,1.0:0.1" and settings["learning_rate"] == "0.0:0.001,1.0:0.0"

    run("train", "--config", tmp_path / "a" / "config.yaml", "--out", tmp_path / "b")
    configs = [(tmp_path / name / "config.yaml").read_text() for name in ("a", "b")]
    assert configs[0] == configs[1]
    again = Checkpoint.load(tmp_path / "b")
    for name, tensor in checkpoint.policies["hunters"]["weights"].items():
        assert torch.equal(tensor, again.policies["hunters"]["weights"][name]), name


def test_every_setting_has_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "tag_gridworld-v0", "--help"])
    printed = capsys.readouterr().out
    for prefix, owner in (("env", registry.get("tag_gridworld-v0")), *algorithms().items()):
        for parameter in owner.parameters():
            assert f"--{prefix}.{parameter.name.replace('_', '-')}" in printed
    for field in fields(RunConfig):
        if field.name not in ("environment", "env", "settings", "algorithm"):
            assert f"--{field.name.replace('_', '-')}" in printed, field.name


def test_train_resumes(run: Run, checkpoint: Path) -> None:
    before = Checkpoint.load(checkpoint).agent_steps
    run("train", "--resume", checkpoint.parent, "--total-steps", str(4 * before))
    assert Checkpoint.load(checkpoint).agent_steps == 4 * before


def test_train_measures_the_number_of_copies(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoscale, "_measure", lambda env, *_: (float(env.num_envs), 0.04 * env.num_envs, 0))
    printed = run(
        "train", "tag_gridworld-v0", "--num-envs", "auto", "--device", "cpu", "--total-steps", "1", "--out", tmp_path
    )
    assert "num_envs: 32 (a larger batch would take longer" in printed
    assert "32 copies of tag_gridworld-v0 on cpu" in printed
    assert Checkpoint.load(tmp_path).num_envs == 32


def test_play(run: Run, checkpoint: Path) -> None:
    gif, mp4 = checkpoint.with_name("game.gif"), checkpoint.with_name("game.mp4")
    for options, longest in (([], 10), (["--steps", "15", "--random", "tagger", "runner"], 16)):
        printed = run("play", checkpoint, "--gif", gif, "--mp4", mp4, "--device", "cpu", *options)
        assert str(gif) in printed and str(mp4) in printed
        with Image.open(gif) as picture:
            assert 1 < picture.n_frames <= longest
        imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
        count, seconds = imageio_ffmpeg.count_frames_and_secs(str(mp4))
        assert 1 < count <= longest
        assert seconds == pytest.approx(count / FRAMES_PER_SECOND, rel=0.2)


def test_films_say_what_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = np.zeros((33, 47, 3), np.uint8)
    path = video.record_mp4([frame, frame + 200], tmp_path / "a.mp4", fps=2)
    assert path.stat().st_size > 500
    for frames, fps in (([], 2), ([frame, frame[:20]], 2), ([frame], 0)):
        with pytest.raises(ParameterError, match="needs frames, all of one size"):
            video.record_mp4(frames, tmp_path / "b.mp4", fps=fps)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'gpu-marl-envs\[video\]'"):
        video.record_mp4([frame], tmp_path / "b.mp4")
    assert list(tmp_path.iterdir()) == [path]


def test_eval(run: Run, checkpoint: Path) -> None:
    printed = run("eval", checkpoint, "--episodes", "20", "--device", "cpu")
    assert "20 episodes" in printed and "95 %" in printed
    for mix in ("trained  trained", "trained  random", "random   trained", "random   random"):
        assert f"\n{mix} " in printed


def test_eval_compares_checkpoints(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    run("train", "--config", checkpoint.with_name("config.yaml"), "--seed", "1", "--out", other)
    printed = run("eval", checkpoint.parent, other / "checkpoint.pt", "--episodes", "10", "--device", "cpu")
    names = (checkpoint.parent.name, "other", "random")
    for mix in itertools.product(names, repeat=2):
        assert re.search(rf"^{mix[0]} +{mix[1]} ", printed, re.MULTILINE), mix


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


def test_a_command_whose_output_nobody_reads_ends_silently() -> None:
    code = "import sys; sys.stdin.read(); from gpu_marl_envs.cli import main; sys.exit(main(['list']))"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, stderr=-1) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdout.close()
        process.stdin.close()  # now it begins
        assert (process.stderr.read(), process.wait()) == (b"", 141)


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
        (["train", "tag_gridworld-v0", "--ppo.clip-range", "wide"], "clip_range must be a number, or fractions"),
        (["train", "tag_gridworld-v0", "--a2c.discount", "0.5"], "Settings of a2c have no effect"),
        (["train", "tag_gridworld-v0", "--policies.tager.frozen", "yes"], "did you mean 'tagger'"),
        (["train", "tag_gridworld-v0", "--policies.tagger.discout", "1"], "did you mean '--policies.tagger.discount'"),
        (["train", "tag_gridworld-v0", "--policies.tagger.epochs", "0"], "epochs must be a whole number"),
        (["train", "tag_gridworld-v0", "--policies.tagger.network", "mine:Net"], "import 'mine' first"),
        (["train", "tag_gridworld-v0", "--policies.tagger.weights", "nowhere"], "There is no checkpoint nowhere"),
        (["train", "tag_gridworld-v0", "--config", "no.yaml"], "There is no file no.yaml"),
        (["train", "--config"], "expected one argument"),
        (["train", "--resume", "nowhere"], "There is no checkpoint nowhere"),
        (["train", "--resume", "runs/a", "--ppo.discount", "0.5"], "ppo.discount cannot change"),
        (["train", "tag_gridworld-v0", "--device", "tpu"], "device"),
        (["train", "tag_gridworld-v0", "stray"], "no option stray"),
        (["play", "missing.pt", "--gif", "x.gif"], "There is no checkpoint missing.pt"),
        (["play", "missing.pt"], "--gif FILE, --mp4 FILE, or both"),
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("environment: tag_gridwrld-v0", "did you mean 'tag_gridworld-v0'"),
        ("num_envs: 4", "Say which environment"),
        ("[1, 2]", "must hold keys and values"),
        ("{", "is not YAML"),
        ("environment: tag_gridworld-v0\ntotal_step: 5", "did you mean 'total_steps'"),
        ("environment: tag_gridworld-v0\ntotal_steps: many", "total_steps must be a whole number of at least 1"),
        ("environment: tag_gridworld-v0\nseed: -1", "seed must be a whole number of at least 0"),
        ("environment: tag_gridworld-v0\nmax_seconds: soon", "max_seconds must be a number of seconds"),
        ("environment: tag_gridworld-v0\nenv: 5", "env must hold keys and values"),
        ("environment: tag_gridworld-v0\nenv: {num_tagers: 5}", "did you mean 'num_taggers'"),
        ("environment: tag_gridworld-v0\nenv: {num_taggers: 1.5}", "num_taggers must be a whole number"),
        ("environment: tag_gridworld-v0\nalgorithm: dqn", "There is no algorithm 'dqn'"),
        ("environment: tag_gridworld-v0\npolicies: {tagger: {frozen: perhaps}}", "frozen must be true or false"),
        ("environment: tag_gridworld-v0\npolicies: {tagger: {epoch: 3}}", "did you mean 'epochs'"),
    ],
)
def test_a_mistake_in_a_file_is_one_line(
    text: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert main(["train", "--config", str(file)]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [file]


def test_mistakes_about_a_checkpoint(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    for words, message in (
        (["play", checkpoint, "--gif", checkpoint.parent / "no" / "x.gif"], "no folder"),
        (["play", checkpoint, "--gif", checkpoint.parent / "x.gif", "--random", "taggers"], "did you mean 'tagger'"),
        (["eval", checkpoint, checkpoint.parent], "The same checkpoint was given twice"),
        (["train", "tag_gridworld-v0", "--out", checkpoint.parent], "holds a run already"),
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


def test_folders_may_be_named_like_environments(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("train", "tag_gridworld-v0", *TINY, "--total-steps", "1", "--out", "cartpole-v1")
    assert "Resuming cartpole-v1" in run("train", "--resume", "cartpole-v1", "--total-steps", "200")


def test_runs_that_start_at_once_get_folders_of_their_own(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        run("train", "tag_gridworld-v0", *TINY, "--total-steps", "1")
    assert len(list((tmp_path / "runs" / "tag_gridworld-v0").iterdir())) == 2


def test_only_checkpoints_of_one_game_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for steps in ("9", "11"):
        out = ["--total-steps", "1", "--out", str(tmp_path / steps), "--env.episode-length", steps]
        assert main(["train", "tag_gridworld-v0", *TINY, *out]) == 0
    assert main(["eval", str(tmp_path / "9"), str(tmp_path / "11"), "--device", "cpu"]) == 2
    assert "11 was trained with episode_length=11 and" in capsys.readouterr().err

    checkpoint = Checkpoint.load(tmp_path / "11")
    del checkpoint.env_params["episode_length"]
    checkpoint.save(tmp_path / "older.pt")
    assert main(["eval", str(tmp_path / "older.pt"), str(tmp_path / "9"), "--device", "cpu"]) == 2
    assert "9 was trained with episode_length=9 and" in capsys.readouterr().err
