"""The documents: their commands are accepted, their links lead somewhere, and the reference has every setting."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from alu_defects.config import compose, conf_dir, flat
from alu_defects.overrides import prepare_overrides

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
VERBS = "|".join(file.stem for file in conf_dir().glob("*.yaml"))


def commands() -> list[str]:
    """Each command of the documents, once, with words in place of <placeholders>."""
    found: list[str] = []
    for file in DOCUMENTS:
        text = file.read_text(encoding="utf-8")
        found += re.findall(rf"^    ((?:python -m alu_defects\.|alu-)(?:{VERBS})\b.*)$", text, re.MULTILINE)
        found += re.findall(rf"`((?:python -m alu_defects\.|alu-)(?:{VERBS}) [^`…]+)`", text)
        arguments = re.findall(r'make table2 ARGS="([^"]*)"', text)
        found += [f"alu-train -m sweep=table2 {words}" for words in arguments]
    commands = (re.sub(r"<[^>]*>", "word", line.partition(" #")[0]).strip() for line in found)
    return sorted({command for command in commands if not re.search(r" -s?c ?| -cd ", command)})


@pytest.mark.parametrize("command", commands())
def test_command_in_documents_has_settings_that_exist(command):
    verb = re.search(rf"(?:alu_defects\.|alu-)({VERBS})", command)[1]
    words = [word for word in shlex.split(command) if "=" in word]
    overrides = OverridesParser.create().parse_overrides(prepare_overrides(verb, words, sweep=" -m " in command))
    words = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [o.input_line]
        for o in overrides
    ]
    for number in range(max(map(len, words), default=1)):  # each value of a sweep once, not each combination
        settings = flat(compose(verb, [values[min(number, len(values) - 1)] for values in words]))
        assert settings.get("resume") or "--cfg" in command or "???" not in settings.values()


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_link_in_document_leads_to_a_file(file):
    text = file.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        generated = target.startswith("reference/")  # by `make docs`, which knows what it links to
        assert generated or target.startswith("https://") or (file.parent / target).exists(), target


def test_configuration_reference_has_every_setting():
    spec = importlib.util.spec_from_file_location("build_docs", ROOT / "docs" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    reference = build.describe_configuration()
    settings = flat(compose("train", ["data=tianchi", "callbacks=[default,ema]"]))
    assert [key for key, value in settings.items() if not isinstance(value, dict) and f"`{key}`" not in reference] == []
    for file in conf_dir().glob("*/*.yaml"):
        if file.parent.name not in ("hydra", "local") and file.stem != "_base":
            assert f"`{file.parent.name}={file.stem}`" in reference
