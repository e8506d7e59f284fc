"""What is typed on a command line reaches the code as it is typed, and what Hydra reads stays Hydra's."""

import importlib
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from alu_defects.cli import verb
from alu_defects.config import absolute_paths, compose, plain
from alu_defects.overrides import PATH_SETTINGS, prepare_overrides
from alu_defects.runs import parallel

PLACES = [
    "~/photos",
    "/data/Übung/鋁",
    "/data/photos (neu)/x",
    "/data/lot=3/x",
    "/data/#1/x",
    "/data/it's",
    "/data/it's, 'she' said \"no\"",
    r"\\server\share",
    "C:\\photos\\",
    "C:\\a\\'b\\\\'\\",
    "/a,b/[old]/{x}/100%/a&b/wow!/a@b:c;d|e<f>*?",
    "[old]",
    "{a: 1}",
    "choice(a,b)",
    " /a / b ",
    "2018",
    "1e5",
    "1_000",
    "0x10",
    "true",
    "NULL",
    "nan",
    "'half",
    'half"',
    "-x",
    "+x",
    "a\tb\nc",
    "$HOME",
    "x=",
    " ",
]
Job = tuple[dict[str, Any], list[str], list[str]]


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[Job]]:
    """Run a verb that does nothing: of each job the configuration, the overrides, and what sys.argv is meanwhile."""

    def run(config_name: str, *words: str) -> list[Job]:
        found: list[Job] = []

        @verb(config_name)
        def main(config: DictConfig) -> None:
            content: dict[str, Any] = OmegaConf.to_container(config)  # type: ignore[assignment]
            found.append((content, list(HydraConfig.get().overrides.task), list(sys.argv)))

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(parallel, "count_jobs_that_fit", lambda configs: 1)
        monkeypatch.setattr(sys, "argv", [f"alu-{config_name}", *words])
        main()
        assert sys.argv == [f"alu-{config_name}", *words]
        return found

    return run


def value(word: str, text: str, sweep: bool = False) -> Any:
    """What Hydra reads in the prepared word, also after it was written again, as for the jobs of a sweep."""
    (prepared,) = prepare_overrides("train", [f"{word}={text}"], sweep)
    assert prepare_overrides("train", [prepared], sweep) == [prepared]
    read = OverridesParser.create().parse_override(prepared)
    if not read.is_sweep_override():
        again = OverridesParser.create().parse_override(f"{word}={read.get_value_element_as_str()}")
        assert again.value() == read.value()
    return read.value()


@pytest.mark.parametrize("place", PLACES)
def test_a_path_is_read_as_it_is_typed(place):
    for key in ("data.table", "++operating.normal", "resume"):
        assert value(key, place) == place
    if "," not in place and place != "choice(a,b)":
        assert value("paths.cache", place, sweep=True) == place


def test_python_and_the_command_line_read_paths_alike(jobs):
    keys = ("runs", "output", "operating.normal")
    for places in zip(PLACES[::3], PLACES[1::3], PLACES[2::3], strict=True):
        words = [f"{key}={place}" for key, place in zip(keys, places, strict=True)]
        ((config, _, argv),) = jobs("compare", *words)
        assert argv[1:] == words  # what run.json notes
        assert compose("compare", words) == config
        assert tuple(OmegaConf.select(OmegaConf.create(config), key) for key in keys) == places


def test_random_texts_are_read_as_they_are_typed():
    letters = random.Random(0)
    for _ in range(400):
        text = "".join(letters.choices("""ab1e.\\\\\\''"" ,=:()[]{}ü鋁%&!@#~$/-\n""", k=letters.randint(1, 9)))
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
        if not quoted and text != "null":
            assert value("data.root", text) == text
            assert "," in text or value("data.root", text, sweep=True) == text.strip() or text != text.strip()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("'/a b'", "/a b"),
        ('"/a b"', "/a b"),
        (r"'it\'s \ here\\'", "it's \\ here\\"),
        ("null", None),
        ("", ""),
        ("auto", "auto"),
        ("???", "???"),
        ("${paths.cache}/x y", "${paths.cache}/x y"),
        ("${oc.env:NO,'~/a, b'}", "${oc.env:NO,'~/a, b'}"),
    ],
)
def test_what_is_quoted_for_hydra_or_has_a_meaning_keeps_it(text, meant):
    assert value("data.root", text) == meant
    assert value("data.root", text, sweep=True) == meant


@pytest.mark.parametrize(
    "word",
    [
        "seed=3",
        "seed=0,1,2",
        "model=xception,shufflenet",
        "seed=range(0,3)",
        "seed=choice(0,1)",
        "callbacks=[default,ema]",
        "optimizer.lr=1e-3",
        "compile=true",
        "data.synthetic.size=[640, 480]",
        "+optimizer.x={a: 1}",
        "~data.root",
        "data.root=/data/lot_3-b.c",
        "run=runs/2026-11-22_14-05-33_xception_seed0",
        "loss.class_weights=balanced",
        "trainer.max_epochs=${model.steps}",
    ],
)
def test_what_hydra_reads_is_left_as_it_is(word):
    assert prepare_overrides("train", [word]) == prepare_overrides("train", [word], sweep=True) == [word]


def test_other_values_that_hydra_cannot_read_are_texts():
    assert value("+note", "größer (2), it's") == "größer (2), it's"
    assert value("+notes", "[größer, it's, 3, [a]]") == ["größer", "it's", 3, ["a"]]


def test_a_list_of_runs_takes_every_path():
    typed = r"[/a/b, /c d/e,/it's, it's/,2018,'/x, y',/lot (1,2),C:\x\]"
    places = ["/a/b", "/c d/e", "/it's", "it's/", "2018", "/x, y", "/lot (1,2)", "C:\\x\\"]
    assert value("runs", typed) == places
    assert plain(compose("compare", [f"runs={typed}"]).runs) == places
    assert value("runs", "[]") == []
    assert value("runs", "[new]/x") == "[new]/x"


@pytest.mark.parametrize(
    ("typed", "places"),
    [
        ("/a,/b", ["/a", "/b"]),
        ("/ü (1,2), it's,it's/2,2018,'/c,d'", ["/ü (1,2)", "it's", "it's/2", "2018", "/c,d"]),
        ("choice(/a,/b)", ["/a", "/b"]),
        ("${runs}/x,~/b", ["${runs}/x", "~/b"]),
    ],
)
def test_the_jobs_of_a_sweep_have_the_paths_that_are_typed(jobs, typed, places):
    found = jobs("compare", "runs=/a b", "-m", f"output={typed}", "operating.max_escape=0.1")
    assert [(config["runs"], config["output"]) for config, *_ in found] == [("/a b", place) for place in places]
    assert (
        found[0][0]
        == jobs("compare", "hydra.mode=MULTIRUN", "runs=/a b", f"output={typed}", "operating.max_escape=0.1")[0][0]
    )


def test_shorthands_work_on_the_command_line_and_in_python(jobs):
    ((config, overrides, argv),) = jobs("benchmark", "what=infer", "model=xception,shufflenet")
    assert config["models"] == compose("benchmark", ["model=xception,shufflenet"]).models == ["xception", "shufflenet"]
    assert overrides == ["what=infer", "models=[xception,shufflenet]"]
    assert argv == ["alu-benchmark", "what=infer", "model=xception,shufflenet"]
    ((config, _, _),) = jobs("evaluate", "run=/a b", "split=val")
    assert config["split"]["name"] == compose("evaluate", ["split=val"]).split.name == "val"
    assert compose("train", ["split=paper"]).split.name == "paper"


def test_overrides_stay_readable(jobs):
    ((_, overrides, _),) = jobs("compare", "runs=/data/lot_3", "output=/out/Übung", "+note=a b")
    assert overrides == ["runs=/data/lot_3", "output='/out/Übung'", "+note=a b"]


def test_options_keep_their_words(jobs, tmp_path, capsys):
    mine = tmp_path / "split=it's (mine)"
    (mine / "data").mkdir(parents=True)
    (mine / "data" / "mine.yaml").write_text("defaults: [folder, _self_]\nimage_size: 7\n")
    ((config, _, _),) = jobs("audit", "-cd", str(mine), "data=mine", "data.root=/a b")
    assert (config["data"]["image_size"], config["data"]["root"]) == (7, "/a b")
    assert jobs("audit", "data.root=~/ü", "--cfg", "job") == []
    assert "root: ~/ü" in capsys.readouterr().out


def test_a_pickle_of_hydra_is_not_run(jobs, tmp_path, capsys):
    with pytest.raises(SystemExit):
        jobs("audit", "--experimental-rerun", str(tmp_path / "config.pickle"))
    assert "--experimental-rerun reads a pickle" in capsys.readouterr().err


def test_paths_become_absolute_and_nothing_else(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    words = [
        "data=folder",
        "data.root=photos",
        "paths.cache=~/c",
        "run_dir=r",
        "model.weights=a/../w.pth",
        "resume=auto",
    ]
    config = compose("train", words)
    made = absolute_paths(config)
    assert made.data.root == str(tmp_path / "photos")
    assert made.data.cache_dir == "/home/me/c/pixels"
    assert made.callbacks.best.dirpath == f"{tmp_path}/r/checkpoints"
    assert made.model.weights == f"{tmp_path}/a/../w.pth"  # a may be a link
    assert made.resume == "auto"
    assert config.data.root == "photos"
    assert absolute_paths(made) == made
    for key in PATH_SETTINGS:
        OmegaConf.update(made, key, None, force_add=True)
    for key in PATH_SETTINGS:
        OmegaConf.update(config, key, None, force_add=True)
    assert made == config
    compared = absolute_paths(compose("compare", ["runs=[a,/b,~/c]"]))
    assert compared.runs == [f"{tmp_path}/a", "/b", "/home/me/c"]


def test_hydra_makes_no_folder_named_tilde(jobs, monkeypatch, tmp_path):
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    seen = []
    importlib.import_module("alu_defects.train")

    @verb("train")
    def main(config: DictConfig) -> None:
        seen.append(Path(HydraConfig.get().runtime.output_dir))

    monkeypatch.chdir(tmp_path)
    for words in (
        ["run_dir=~/mine"],
        ["paths.runs=~/runs"],
        ["-m", "paths.runs=~/runs", "sweep=kfold", "split.fold=0"],
    ):
        monkeypatch.setattr(sys, "argv", ["alu-train", *words])
        main()
    assert len(seen) == 3
    assert seen[-1].is_relative_to(home)  # the other two make their folders when they train
    assert not (tmp_path / "~").exists()
