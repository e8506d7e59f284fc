"""Compare runs: `python -m alu_defects.compare runs=runs/<sweep>`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, ListConfig

from alu_defects.cli import verb
from alu_defects.config import absolute_paths, plain

if TYPE_CHECKING:  # takes a while to import: --help and --cfg must not wait for it
    from alu_defects.evaluation.comparison import Comparison


def compare(
    folders: Sequence[Path], output: Path | None = None, normal: str = "normal", max_escape: float = 0.01
) -> "Comparison":
    """Print what the runs in the folders show, and write it as report.html, report.md, CSV tables and figures.

    Args:
        folders: run folders, or folders of run folders.
        output: the folder of the report; None: nowhere.
        normal: the class of good pieces, for escape and overkill.
        max_escape: the share of defective pieces that may pass.

    Returns:
        The tables: runs, Table 2 with intervals, differences with tests, classes, attention.

    Raises:
        UserError: a folder without runs.
    """
    from alu_defects.evaluation.comparison import Comparison
    from alu_defects.reports import comparison_report

    comparison = Comparison.of(folders)
    comparison_report.print_comparison(comparison)
    if output:
        print(f"report: {comparison_report.write_comparison_report(comparison, output, normal, max_escape)}")
    return comparison


@verb("compare")
def main(config: DictConfig) -> None:
    """Compare the runs that the command line names."""
    config = absolute_paths(config)
    many = isinstance(config.runs, ListConfig)
    folders = [Path(folder) for folder in (config.runs if many else [config.runs])]
    output = Path(config.output) if config.output else Path() if many else folders[0]
    compare(folders, output if config.output else output / "comparison", **plain(config.operating))


if __name__ == "__main__":
    main()
