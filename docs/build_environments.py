"""Writes docs/environments.md and docs/environments/*.md from the declarations of the packaged environments.

Run it after changing a declaration: ``python docs/build_environments.py``.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from gpu_marl_envs import envs, registry
from gpu_marl_envs.spec import Environment, Group

FOLDER = Path(__file__).parent
NOTE = "<!-- Written by docs/build_environments.py from the declarations; edit those. -->\n\n"


def pages() -> dict[Path, str]:
    """The text of every page, by path: the index, and one page for each environment."""
    registered = [registry.get(env_id) for env_id in registry.ids()]
    declarations = [declaration for declaration in registered if declaration.__module__.startswith(envs.__name__)]
    written = {FOLDER / "environments" / f"{declaration.id}.md": _page(declaration) for declaration in declarations}
    return {FOLDER / "environments.md": _index(declarations)} | written


def _index(declarations: list[type[Environment]]) -> str:
    rows = []
    for declaration in declarations:
        groups = declaration.make().agent_groups
        agents = ", ".join(f"{group.size} {group.name}" for group in groups)
        actions = "; ".join(dict.fromkeys(_space(group, "action") for group in groups))
        rows.append(
            [f"[`{declaration.id}`](environments/{declaration.id}.md)", _docstring(declaration)[0], agents, actions]
        )
    table = _table(["environment", "what it is", "agents by default", "actions of an agent"], rows)
    intro = (
        "# Environments\n\n"
        'Every environment is known as `<id>` here (`make_batched("<id>", …)`, `gpu-marl train <id>`) and as\n'
        "`gpu_marl/<id>` to PettingZoo. `gpu-marl list` prints them, `gpu-marl info <id>` what one is.\n\n"
    )
    outro = "\nYour own environments are listed there as well: [writing an environment](writing_an_environment.md).\n"
    return NOTE + intro + table + outro


def _page(declaration: type[Environment]) -> str:
    summary, body = _docstring(declaration)
    default = declaration.make()
    text, heading, sources = body.partition("## Source")
    parts = [
        NOTE + f"# {declaration.id}\n\n{summary}\n",
        _table(
            ["group", "agents by default", "observation of an agent", "action of an agent"],
            [
                [f"`{group.name}`", str(group.size), _space(group, "observation"), _space(group, "action")]
                for group in default.agent_groups
            ],
        ),
        text.strip() + "\n",
        "## Arguments\n\n"
        + _table(
            ["name", "default", "valid", "unit", "meaning"],
            [[f"`{p.name}`", _literal(p.default), p.valid, p.unit, p.doc] for p in declaration.parameters()],
        ),
        "## State\n\n"
        "Attributes of `env.state`; E is the number of copies, n the number of agents of a copy.\n\n"
        + _table(
            ["name", "dtype", "shape", "meaning"],
            [
                [f"`{field.name}`", field.dtype, _shape("E", *["n"] * (field.per == "agent"), *field.shape), field.doc]
                for field in default.state_fields()
                if not field.scratch
            ],
        ),
        (heading + sources).strip() + "\n",
    ]
    return "\n".join(parts)


def _docstring(declaration: type[Environment]) -> tuple[str, str]:
    """The first sentence of a declaration's docstring, and what follows it."""
    summary, _, body = (inspect.getdoc(declaration) or "").partition("\n\n")
    return summary.replace("\n", " "), body


def _space(group: Group, kind: str) -> str:
    if kind == "observation":
        return f"`float32 {_shape(*group.observation_space.shape)}`"
    if not group.action_counts:
        return f"`Box{_shape(*group.action_shape)}`"
    counts = group.action_counts
    return f"`MultiDiscrete({list(counts)})`" if group.action_shape else f"`Discrete({counts[0]})`"


def _literal(value: object) -> str:
    return f"`{value:g}`" if isinstance(value, float) else f"`{value!r}`"


def _shape(*sizes: object) -> str:
    return f"[{', '.join(map(str, sizes))}]"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def main() -> None:
    """Writes all pages and removes those of environments that are gone."""
    written = pages()
    folder = FOLDER / "environments"
    folder.mkdir(exist_ok=True)
    for stale in set(folder.glob("*.md")) - written.keys():
        stale.unlink()
    for path, text in written.items():
        path.write_text(text)
        print(path)


if __name__ == "__main__":
    main()
