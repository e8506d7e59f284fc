"""The classes of the Tianchi 2018 aluminium-profile competition, round 1, in the paper's words."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DefectClass:
    """One class: its id, English name, Chinese folder name and label in a submission file."""

    id: int
    name: str
    folder: str
    submission: str


NORMAL = DefectClass(0, "normal", "无瑕疵样本", "norm")
DEFECTS = tuple(
    DefectClass(number, name, folder, f"defect{number}")
    for number, (name, folder) in enumerate(
        [
            ("non_conductive", "不导电"),
            ("scuffed", "擦花"),
            ("cross_strip_dent", "横条压凹"),
            ("orange_peel", "桔皮"),
            ("bottom_leakage", "漏底"),
            ("bruise", "碰伤"),
            ("pit", "起坑"),
            ("convex_powder", "凸粉"),
            ("cracked_coating", "涂层开裂"),
            ("dirty_spot", "脏点"),
        ],
        start=1,
    )
)
OTHER = DefectClass(11, "other", "其他", "defect11")  # 17 rare kinds; the paper leaves them out

CLASSES = (NORMAL, *DEFECTS)
CLASS_NAMES = tuple(c.name for c in CLASSES)

NORMAL_FILE_PREFIX = "正常"  # files in 无瑕疵样本/ are named 正常<time>….jpg
DEFECTS_FOLDER = "瑕疵样本"  # holds one folder a defect class
