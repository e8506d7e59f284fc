"""Compare runs: `python -m alu_defects.compare runs=runs/<sweep>`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from alu_defects.cli import verb
from alu_defects.config import absolute_paths, check_settings, compose, plain

if TYPE_CHECKING:  # takes a while to import: --help and --cfg must not wait for it
    from alu_defects.evaluation.comparison import Comparison


def compare(
    folders: Sequence[Path], output: Path | None = None, operating: Mapping[str, Any] | None = None
) -> "Comparison":
    """Print what the runs in the folders show, and write it as report.html, report.md, CSV tables and figures.

    Args:
        folders: run folders, or folders of run folders.
        output: the folder of the report; None: nowhere.
        operating: options of the operating point, as in conf/compare.yaml; None: those of the first run.

    Returns:
        The tables: runs, Table 2 with intervals, differences with tests, classes, attention.

    Raises:
        UserError: a folder without runs, or an option that cannot be.
    """
    from alu_defects.evaluation.comparison import Comparison
    from alu_defects.evaluation.operating import check_normal, fill_options
    from alu_defects.reports import comparison_report

    operating = operating or plain(compose("compare").operating)
    check_settings(OmegaConf.create({"operating": dict(operating)}))
    comparison = Comparison.read(folders)
    if comparison.groups:
        operating = fill_options(operating, comparison.groups[0].config.operating)
        check_normal(operating["normal"], sorted({name for group in comparison.groups for name in group.classes}))
    comparison_report.print_comparison(comparison)
    if output:
        print(f"report: {comparison_report.write_comparison_report(comparison, output, operating)}")
    return comparison


@verb("compare")
def main(config: DictConfig) -> None:
    """Compare the runs that the command line names."""
    config = absolute_paths(config)
    many = isinstance(config.runs, ListConfig)
    folders = [Path(folder) for folder in (config.runs if many else [config.runs])]
    output = Path(config.output) if config.output else Path() if many else folders[0]
    compare(folders, output if config.output else output / "comparison", plain(config.operating))


if __name__ == "__main__":
    main()
