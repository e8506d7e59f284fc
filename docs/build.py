"""Build the documentation into site/: `python docs/build.py`. A warning is an error.

First docs/reference/ is written: the configuration reference, from conf/, the API pages, from the package, and copies
of the changelog and of the guide for contributors, which stand in the repository's root.
"""

import ast
import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONF, PACKAGE, REFERENCE = ROOT / "conf", ROOT / "alu_defects", ROOT / "docs" / "reference"


def main() -> None:
    """Write docs/reference/ again, and build the site."""
    write_reference()
    pages = {page.relative_to(REFERENCE.parent).as_posix() for page in REFERENCE.parent.rglob("*.md")}
    if wrong := pages ^ set(re.findall(r'"([\w/]+\.md)"', (ROOT / "zensical.toml").read_text(encoding="utf-8"))):
        sys.exit(f"only one of docs/ and nav in zensical.toml has: {', '.join(sorted(wrong))}")
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
    parts += [_describe_file(file, f"### {file.stem}", "") for file in sorted(CONF.glob("*.yaml"))]
    for group in sorted(path for path in CONF.iterdir() if path.is_dir() and path.name not in ("hydra", "local")):
        parts.append(f"## {group.name}")
        for file in sorted(group.glob("*.yaml"), key=lambda file: (file.stem != "_base", file.stem)):
            title = f"`{group.name}={file.stem}`" if file.stem != "_base" else f"Every choice of `{group.name}`"
            prefix = "" if "@package _global_" in file.read_text(encoding="utf-8") else f"{group.name}."
            parts.append(_describe_file(file, f"### {title}", prefix))
    return "\n\n".join(parts) + "\n"


def _describe_file(file: Path, title: str, prefix: str) -> str:
    """The comment at the top of a file, what it starts from, and a table of its settings."""
    text = file.read_text(encoding="utf-8")
    blocks = [title]
    rows: list[str] = []
    top = re.match(r"(?:#.*\n?)*", text)[0].replace("# @package _global_\n", "").splitlines()  # type: ignore[index]
    for is_command, lines in itertools.groupby(top, key=lambda line: line.startswith("# python ")):
        blocks.append("\n".join(f"    {line[2:]}" if is_command else line[2:] for line in lines))
    for key, value in getattr(yaml.compose(text), "value", ()):
        if key.value != "defaults":
            rows += _settings(key, value, prefix, text)
        elif chosen := list(_choices(value)):
            blocks.append("Starts from: " + ", ".join(f"`{choice}`" for choice in chosen) + ".")
    if rows:
        blocks.append("\n".join(["| setting | default | about |", "|---|---|---|", *rows]))
    return "\n\n".join(blocks)


def _settings(key: yaml.Node, value: yaml.Node, prefix: str, text: str) -> Iterator[str]:
    """A row for a setting, or for each of a group of settings: name, default, comment at the end of the line."""
    group = isinstance(value, yaml.MappingNode) and value.value
    comment = text[(key if group else value).end_mark.index :].split("\n", 1)[0].partition("#")[2].strip()
    default = " ".join(text[value.start_mark.index : value.end_mark.index].split())
    if comment or not group:
        yield f"| `{prefix}{key.value}` | {'' if group else f'`{default}`'} | {comment} |"
    for inner_key, inner in value.value if group else ():
        yield from _settings(inner_key, inner, f"{prefix}{key.value}.", text)


def _choices(defaults: yaml.Node) -> Iterator[str]:
    """What a defaults list takes, as words of the command line."""
    for entry in yaml.safe_load(yaml.serialize(defaults)):
        if isinstance(entry, str):
            if not entry.startswith("_"):  # _self_, and _base, which is described once
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
        about = ast.get_docstring(ast.parse((files[0].parent / "__init__.py").read_text(encoding="utf-8")))
        modules = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files if file.stem != "__init__"]
        page = [f"# {name}\n\n{about}", *(f"::: {module}" for module in modules)]
        (folder / f"{name}.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
