"""conf/ is found from a checkout, an editable install and a wheel, from any folder, as module and as script."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a wheel that was built from the sdist installs."""
    dist, target = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(CHECKOUT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = dist.glob("*.whl")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    return target


def printed_config(words: list[str], cwd: Path, path: Path | None = None) -> dict[str, object]:
    environment = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    words = [*words, "--cfg", "job", "model=inceptionv4_scse"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd, env=environment, check=True)
    return OmegaConf.to_container(OmegaConf.create(done.stdout))


def test_the_wheel_is_complete_and_stands_alone(installed_wheel, tmp_path):
    where = [sys.executable, "-c", "import alu_defects.config as c; print(c.conf_dir())"]
    environment = {**os.environ, "PYTHONPATH": str(installed_wheel)}
    printed = subprocess.run(where, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True).stdout
    assert Path(printed.strip()) == installed_wheel / "alu_defects" / "conf"
    packed = {
        p.relative_to(installed_wheel / "alu_defects" / "conf")
        for p in (installed_wheel / "alu_defects" / "conf").rglob("*.yaml")
    }
    assert packed == {
        p.relative_to(CHECKOUT / "conf") for p in (CHECKOUT / "conf").rglob("*.yaml") if "local" not in p.parts
    }
    page = Path("alu_defects", "deployment", "page")
    packed_page = {path.name for path in (installed_wheel / page).iterdir()}
    assert packed_page == {path.name for path in (CHECKOUT / page).iterdir()} >= {"index.html", "page.js", "page.css"}


@pytest.mark.parametrize("how", ["module", "script"])
def test_the_configuration_is_the_same_from_wheel_editable_install_and_checkout(installed_wheel, tmp_path, how):
    module = [sys.executable, "-m", "alu_defects.train"]
    wheel = module if how == "module" else [sys.executable, str(installed_wheel / "bin" / "alu-train")]
    editable = module if how == "module" else [str(Path(sys.executable).parent / "alu-train")]
    from_wheel = printed_config(wheel, tmp_path, installed_wheel)
    from_editable = printed_config(editable, tmp_path)
    from_checkout = printed_config(module, CHECKOUT, CHECKOUT)
    assert from_wheel["model"]["name"] == "inceptionv4_scse"
    assert {**from_wheel, "run_dir": ""} == {**from_editable, "run_dir": ""} == {**from_checkout, "run_dir": ""}


def test_a_configuration_of_ones_own_is_found(command, tmp_path):
    (tmp_path / "my_conf" / "experiment").mkdir(parents=True)
    (tmp_path / "my_conf" / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 7\n")
    done = command("train", "-cd", "my_conf", "experiment=mine", "--cfg", "job", cwd=tmp_path)
    assert OmegaConf.create(done.stdout).seed == 7
