"""The direction of imports: rooms use the rooms below them, and nothing is imported in a circle."""

import ast
from pathlib import Path

import alu_defects

ROOT = Path(alu_defects.__file__).parent
BASE = {"config", "errors", "io", "overrides", "signals", "tianchi_classes"}
# room → the rooms that it may import, besides the modules of BASE
ALLOWED = {
    "synthetic": set(),
    "data": {"synthetic"},
    "models": set(),
    "training": {"data", "models"},
    "runs": {"data", "models", "training"},
    "evaluation": {"data", "training", "runs"},
    "auditing": {"data"},
    "deployment": {"data", "models", "training", "runs", "evaluation"},
    "reports": {"data", "models", "training", "runs", "evaluation", "auditing"},
}


def imports(file: Path) -> set[str]:
    """The modules of ours that a file imports, anywhere in it but for type checkers alone, such as data.splits."""
    found: set[str] = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body.clear()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "alu_defects":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = {name if is_module(name) else node.module for name in names}
        elif isinstance(node, ast.Import):
            modules = {alias.name for alias in node.names if alias.name.split(".")[0] == "alu_defects"}
        else:
            continue
        found |= {name.removeprefix("alu_defects").removeprefix(".") for name in modules} - {""}
    return found


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split(".")[1:])
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): imports(file)
    for file in ROOT.rglob("*.py")
}


def test_rooms_import_only_the_rooms_below_them() -> None:
    for module, imported in MODULES.items():
        room = module.split(".")[0]
        if room in ALLOWED:
            wrong = {name for name in imported if name.split(".")[0] not in {room, *BASE, *ALLOWED[room]}}
            assert not wrong, f"{module} imports {', '.join(sorted(wrong))}"
        elif module in BASE:
            assert {name.split(".")[0] for name in imported} <= BASE, module


def test_only_verbs_import_the_command_line() -> None:
    users = {module for module, imported in MODULES.items() if "cli" in imported}
    assert users
    assert all("." not in module for module in users), users


def test_no_module_imports_itself_through_others() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join([*path[path.index(module) :], module])
        if module not in done:
            for name in MODULES.get(module, set()):
                visit(name, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())
