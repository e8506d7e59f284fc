"""Look at the images before training: `python -m alu_defects.audit data=folder data.root=<folder>`."""

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from alu_defects.cli import verb
from alu_defects.config import check_settings, plain

if TYPE_CHECKING:  # torch takes seconds to import: --help and --cfg must not wait for it
    from alu_defects.auditing.checks import Audit


def audit(config: DictConfig) -> "Audit":
    """Decode and compare all images of a data set, print what was found, and write audit.csv and audit.html.

    Nothing below the root of the images is changed.

    Returns:
        The tables and the findings; `fails` says whether training would fail.

    Raises:
        UserError: a wrong setting, no such root, or an output that lies in it.
    """
    from alu_defects.auditing import checks
    from alu_defects.data import sources
    from alu_defects.data.catalog import folders_of
    from alu_defects.data.datamodule import DefectData
    from alu_defects.errors import UserError
    from alu_defects.reports import audit_report, terminal

    check_settings(config)
    options = plain(config)
    data = DefectData(**options["data"], split=options["split"])
    output = Path(str(options["output"])).expanduser()
    for root in folders_of(sources.given_root(data.source, data.source_options)).values():
        if output.resolve().is_relative_to(root.resolve()):
            raise UserError(f"output={output} lies below the images, {root}; give a folder outside of it")
    result = checks.audit_images(data, max_distance=options["near_duplicates"]["max_distance"], progress=data.progress)
    output.mkdir(parents=True, exist_ok=True)
    # as in the catalog: names may hold line ends, or not be UTF-8
    result.findings.to_csv(output / "audit.csv", index=False, quoting=csv.QUOTE_ALL, errors="surrogateescape")
    audit_report.write_audit_page(result, output / "audit.html")
    terminal.print_audit(result)
    print(f"report: {output / 'audit.html'}\nevery finding: {output / 'audit.csv'}")
    return result


@verb("audit")
def main(config: DictConfig) -> None:
    """Audit, and end with exit code 1 if training would fail."""
    if audit(config).fails:
        sys.exit(1)


if __name__ == "__main__":
    main()
