"""The time-only baseline: how well the capture time alone predicts the class of guangdong_round1_train2_20180916.

`python docs/time_only_baseline.py` prints the README's table. It needs no images: the tests have the file names.
"""

import gzip
import hashlib
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from alu_defects.data import leakage, splits
from alu_defects.data.sessions import capture_time
from alu_defects.tianchi_classes import CLASSES

NAMES = Path(__file__).parents[1] / "tests" / "data" / "tianchi_round1_names.txt.gz"
SEEDS = 20
SPLITS = {
    "`split=paper`": {"name": "paper"},
    "`split=random`": {"name": "random"},
    "`split=session`": {"name": "session"},
    "`split=session split.val_fraction=0.01`": {"name": "session", "val_fraction": 0.01},
    "`split=session split.gap=300`": {"name": "session", "gap": 300},
}


def catalog() -> pd.DataFrame:
    """Path, label, time, and the hash of the path instead of the content's."""
    classes = {kind.folder: kind.name for kind in CLASSES}
    rows = []
    for line in gzip.decompress(NAMES.read_bytes()).decode().splitlines():
        path = PurePosixPath(line)
        if path.parts[0] == "guangdong_round1_train2_20180916" and path.parent.name in classes:
            digest = hashlib.sha256(line.encode()).hexdigest()
            rows.append((line, classes[path.parent.name], capture_time(path.name), digest))
    return pd.DataFrame(rows, columns=["path", "label", "time", "sha256"], dtype=str)


def main() -> None:
    """Print the table in Markdown."""
    table = catalog()
    for title, split in SPLITS.items():
        found = [leakage.time_only_baseline(splits.split_catalog(table, seed=seed, **split)) for seed in range(SEEDS)]
        scores = 100 * np.array([(one.accuracy, one.macro_recall) for one in found if one])
        (accuracy, recall), (accuracy_sd, recall_sd) = scores.mean(0), scores.std(0)
        print(f"| {title} | {accuracy:.1f} ± {accuracy_sd:.1f} % | {recall:.1f} ± {recall_sd:.1f} % |")


if __name__ == "__main__":
    main()
