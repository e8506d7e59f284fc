"""Build the documentation into site/: `python docs/build.py`. A warning is an error.

First docs/reference/ is written: the configuration reference, from conf/, the API pages, from the package, and copies
of the changelog and of the guide for contributors, which stand in the repository's root.
"""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONF, PACKAGE, REFERENCE = ROOT / "conf", ROOT / "alu_defects", ROOT / "docs" / "reference"
VERBS = ("train", "evaluate", "compare", "audit", "benchmark")


def main() -> None:
    """Write docs/reference/ again, and build the site."""
    write_reference()
    zensical = Path(sys.executable).with_name("zensical")
    done = subprocess.run(
        [zensical, "build", "--clean", "--strict"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    print(done.stdout, done.stderr, sep="")
    # --strict is about links; what is wrong in a docstring is only printed
    if done.returncode or "griffe: " in done.stdout + done.stderr:
        sys.exit("the documentation has warnings")


def write_reference() -> None:
    """The pages that follow from other files."""
    shutil.rmtree(REFERENCE, ignore_errors=True)
    (REFERENCE / "api").mkdir(parents=True)
    (REFERENCE / "configuration.md").write_text(describe_configuration(), encoding="utf-8")
    write_api(REFERENCE / "api")
    shutil.copy(ROOT / "CHANGELOG.md", REFERENCE / "changelog.md")
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("](docs/", "](../")
    (REFERENCE / "contributing.md").write_text(contributing, encoding="utf-8")


def describe_configuration() -> str:
    """Every group, choice, key and default of conf/ with its comment, in Markdown."""
    parts = [
        "# Configuration reference\n\nMade from `conf/`. A command takes a choice of a group as `group=choice` and a "
        "value as `group.key=value`. `???` must be given. `${…}` is the value of another setting.\n\n## Commands"
    ]
    parts += [_describe_file(CONF / f"{verb}.yaml", f"### {verb}", "") for verb in VERBS]
    for group in sorted(path for path in CONF.iterdir() if path.is_dir() and path.name not in ("hydra", "local")):
        parts.append(f"## {group.name}")
        for file in sorted(group.glob("*.yaml"), key=lambda file: (file.stem != "_base", file.stem)):
            title = (
                f"What every choice of `{group.name}` has" if file.stem == "_base" else f"`{group.name}={file.stem}`"
            )
            own = "@package _global_" not in file.read_text(encoding="utf-8")
            parts.append(_describe_file(file, f"### {title}", f"{group.name}." if own else ""))
    return "\n\n".join(parts) + "\n"


def _describe_file(file: Path, title: str, prefix: str) -> str:
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    head = [
        line[1:].removeprefix(" ") for line in lines[: next((n for n, s in enumerate(lines) if s[:1] != "#"), None)]
    ]
    # commands as code, everything else as prose
    about = [f"    {line}" if line.startswith("python ") else line for line in head if not line.startswith("@")]
    blocks, rows, node = [title], [], yaml.compose(text)
    for number, line in enumerate(about):
        if number and line.startswith("    ") != about[number - 1].startswith("    "):
            about[number] = f"\n{line}"
    if about:
        blocks.append("\n".join(about))
    for key, value in node.value if node else ():
        if key.value != "defaults":
            rows += _settings(value, prefix + key.value, lines)
        elif chosen := list(_choices(value)):
            blocks.append("Starts from: " + ", ".join(f"`{choice}`" for choice in chosen) + ".")
    if rows:
        blocks.append(
            "\n".join(["| setting | default | about |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)])
        )
    return "\n\n".join(blocks)


def _settings(node: yaml.Node, name: str, lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """Name, default and comment of every value below a node."""
    if isinstance(node, yaml.MappingNode) and node.value:
        for key, value in node.value:
            yield from _settings(value, f"{name}.{key.value}", lines)
        return
    start, end = node.start_mark, node.end_mark
    rest = lines[end.line][end.column :]
    comment = rest.split("#", 1)[1].strip() if "#" in rest else ""
    default = lines[start.line][start.column : end.column]
    yield tuple(cell.replace("|", r"\|") for cell in (f"`{name}`", f"`{default}`", comment))  # type: ignore[misc]


def _choices(defaults: yaml.Node) -> Iterator[str]:
    """What a defaults list takes, as words of the command line."""
    for entry in yaml.safe_load(yaml.serialize(defaults)):
        if isinstance(entry, str):
            if entry != "_self_":
                yield entry
            continue
        ((group, choice),) = entry.items()
        group = group.removeprefix("override ").removeprefix("/")
        if choice is not None and group != "hydra" and not group.startswith("optional"):
            yield f"{group}={choice}".replace("'", "").replace(" ", "")


def write_api(folder: Path) -> None:
    """A page for each room of the package, and one for what stands above them."""
    rooms = {room.name: sorted(room.glob("*.py")) for room in PACKAGE.iterdir() if (room / "__init__.py").exists()}
    for name, files in {"alu_defects": sorted(PACKAGE.glob("*.py")), **rooms}.items():
        about = next(
            ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) for file in files if "__init__" in file.name
        )
        modules = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files if file.stem != "__init__"]
        page = [f"# {name}\n\n{about}", *(f"::: {module}" for module in modules)]
        (folder / f"{name}.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
