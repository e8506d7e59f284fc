"""The classes of the Tianchi 2018 aluminium-profile competition: round 1 in the paper's words, and round 2."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DefectClass:
    """One class and what it is called in the various packings of the data.

    Attributes:
        id: number of the class, as in the paper's tables.
        name: English, lower case.
        folder: Chinese, of the organisers' archives.
        submission: label in a submission file, and sometimes in an annotation.
        ali2018: folder of the re-pack of that name; "" if it lacks the class.
        apspc: pinyin label in the boxes of the re-pack of that name; "" if it lacks the class.
    """

    id: int
    name: str
    folder: str
    submission: str
    ali2018: str = ""
    apspc: str = ""


NORMAL = DefectClass(0, "normal", "无瑕疵样本", "norm", "Clean sample")
DEFECTS = tuple(
    DefectClass(number, name, folder, f"defect{number}", ali2018, apspc)
    for number, (name, folder, ali2018, apspc) in enumerate(
        [
            ("non_conductive", "不导电", "non-conducting", "budaodian"),
            ("scuffed", "擦花", "scuffing", "cahua"),
            ("cross_strip_dent", "横条压凹", "The transverse strip is dented", "aoxian"),
            ("orange_peel", "桔皮", "Orange peel", "jupi"),
            ("bottom_leakage", "漏底", "Drain bottom", "loudi"),
            ("bruise", "碰伤", "Be injured by a collision", "pengshang"),
            ("pit", "起坑", "pitting", "qikeng"),
            ("convex_powder", "凸粉", "Convex powder", "tufen"),
            ("cracked_coating", "涂层开裂", "Coating cracking", "tucengkailie"),
            ("dirty_spot", "脏点", "Dirty spot", "zangdian"),
        ],
        start=1,
    )
)
OTHER = DefectClass(11, "other", "其他", "defect11")  # 17 rare kinds; the paper leaves them out

CLASSES = (NORMAL, *DEFECTS)
CLASS_NAMES = tuple(c.name for c in CLASSES)

NORMAL_FILE_PREFIX = "正常"  # files in 无瑕疵样本/ are named 正常<time>….jpg
DEFECTS_FOLDER = "瑕疵样本"  # holds one folder a defect class

ROUND2_NORMAL = DefectClass(0, "normal", "无瑕疵图片", "")  # round 2 was detection: nothing to submit
ROUND2_DEFECTS = tuple(
    DefectClass(number, name, folder, f"defect{number - 1}")
    for number, (name, folder) in enumerate(
        [
            ("non_conductive", "不导电"),
            ("scuffed", "擦花"),
            ("corner_leakage", "角位漏底"),
            ("orange_peel", "桔皮"),
            ("bottom_leakage", "漏底"),
            ("spray_flow", "喷流"),
            ("paint_bubble", "漆泡"),
            ("pit", "起坑"),
            ("mottled", "杂色"),
            ("dirty_spot", "脏点"),
        ],
        start=1,
    )
)
ROUND2_SINGLE_FOLDER = "单瑕疵图片"  # holds one folder a defect class
ROUND2_SEVERAL_FOLDER = "多瑕疵图片"  # images with several defects, named in the annotation beside each

ROUNDS = {1: (*CLASSES, OTHER), 2: (ROUND2_NORMAL, *ROUND2_DEFECTS)}
