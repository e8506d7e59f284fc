"""Compare runs in one table: `python -m alu_defects.compare runs=runs/<sweep>`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, ListConfig

from alu_defects.command_line import verb

if TYPE_CHECKING:  # takes a while to import: --help and --cfg must not wait for it
    import pandas as pd


def compare(folders: Sequence[Path], output: Path | None = None) -> "pd.DataFrame":
    """Print one table of all runs in the folders, and write it as comparison.csv.

    Args:
        folders: run folders, or folders of run folders.
        output: where comparison.csv is written; None: nowhere.

    Returns:
        One row a run: folder, model, seed, status, test metrics, recall of each class, best epoch, parameters, seconds.

    Raises:
        UserError: a folder without runs.
    """
    from alu_defects.reporting import comparison, report

    table = comparison.table(folders)
    report.print_comparison(table)
    if output:
        table.to_csv(output / "comparison.csv", index=False)
        print(f"table: {output / 'comparison.csv'}")
    return table


@verb("compare")
def main(config: DictConfig) -> None:
    """Compare the runs that the command line names."""
    many = isinstance(config.runs, ListConfig)
    folders = [Path(folder) for folder in (config.runs if many else [config.runs])]
    compare(folders, Path(config.output) if config.output else None if many else folders[0])


if __name__ == "__main__":
    main()
