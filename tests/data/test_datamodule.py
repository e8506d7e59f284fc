"""Batches: their layout, their order, and that an index leads back to its image."""

import itertools
import multiprocessing
import os
import pickle
import re
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from alu_defects.data import decode, duplicates, sources
from alu_defects.data.catalog import EXCLUDED_COLUMNS
from alu_defects.data.datamodule import DefectData
from alu_defects.data.leakage import NearDuplicates
from alu_defects.errors import UserError
from alu_defects.tianchi_classes import CLASSES

SPLIT = {"name": "random", "val_fraction": 0.2, "test_fraction": 0.2, "seed": 0}


def unprepared(root: Path, **options: Any) -> DefectData:
    defaults = {"source": "folder", "root": str(root), "image_size": 16, "batch_size": 4, "split": SPLIT}
    place = {"cache_dir": os.environ["ALU_DEFECTS_CACHE"]}
    return DefectData(**{**defaults, **place, "progress": False, **options})


def make(root: Path, **options: Any) -> DefectData:
    data = unprepared(root, **options)
    for stage in ("fit", "test"):
        data.setup(stage)
    return data


def indices(loader: DataLoader[Any], epoch: int = 0) -> list[int]:
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)
    return [int(i) for batch in loader for i in batch["index"]]


def test_a_batch_is_uint8_in_channels_last_with_int64_labels(photographs: Path) -> None:
    batch = next(iter(make(photographs).train_dataloader()))
    assert batch.keys() == {"image", "label", "index"}
    assert batch["image"].shape == (4, 3, 16, 16)
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    for key in ("label", "index"):
        assert batch[key].shape == (4,)
        assert batch[key].dtype == torch.int64


def test_batch_index_is_the_catalog_row_of_pixels_and_label(photographs: Path) -> None:
    data = make(photographs)
    table = data.catalog
    seen = {}
    for split in ("train", "val", "test"):
        loader = getattr(data, f"{split}_dataloader")()
        for batch in loader:
            for image, label, index in zip(batch["image"], batch["label"], batch["index"], strict=True):
                row = table.loc[int(index)]
                assert row["split"] == split
                assert row["label"] == data.classes[label]
                expected = decode.decode(photographs / row["path"], (16, 16))
                assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)
                seen[int(index)] = split
    dropped = len(data.find_rows("train")) % 4
    assert len(seen) == 36 - dropped


def test_class_counts_are_those_of_the_training_images(photographs: Path) -> None:
    data = make(photographs)
    table = data.catalog
    assert data.classes == ["across", "along", "plain"]
    train = table[table["split"] == "train"]
    assert data.class_counts() == [int((train["label"] == name).sum()) for name in data.classes]
    assert sum(data.class_counts()) == len(data.find_rows("train")) < len(table)


def test_training_order_depends_on_seed_and_epoch_only(photographs: Path) -> None:
    first, again, other = make(photographs), make(photographs), make(photographs, seed=1)
    orders = [indices(first.train_dataloader(), epoch) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 3
    torch.manual_seed(123)  # the global generator has no say
    assert indices(again.train_dataloader(), 2) == orders[2]
    assert indices(other.train_dataloader(), 2) != orders[2]


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluation_serves_every_image_and_its_first_batches_have_every_class(photographs: Path, split: str) -> None:
    halves = {**SPLIT, "val_fraction": 0.4, "test_fraction": 0.4}
    data, other = (make(photographs, batch_size=4, split=halves, seed=seed) for seed in (0, 7))
    order = indices(getattr(data, f"{split}_dataloader")())
    assert sorted(order) == list(data.find_rows(split))
    assert len(order) == 15  # so that a dropped rest would be seen
    assert set(data.catalog.loc[order[:8], "label"]) == set(data.classes)  # sorted by class: two of them
    assert indices(getattr(other, f"{split}_dataloader")()) == order


def test_training_drops_an_incomplete_batch_unless_it_is_the_only_one(photographs: Path) -> None:
    data = make(photographs, batch_size=5)
    count = len(data.find_rows("train"))
    assert count % 5
    assert [len(b["label"]) for b in data.train_dataloader()] == [5] * (count // 5)
    assert [len(b["label"]) for b in make(photographs, batch_size=100).train_dataloader()] == [count]


def test_worker_processes_yield_the_same_batches_and_do_not_change_the_global_generator(photographs: Path) -> None:
    alone, helped = (list(make(photographs, num_workers=n).train_dataloader()) for n in (0, 2))
    for a, b in zip(alone, helped, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
        assert b["image"].is_contiguous(memory_format=torch.channels_last)
    torch.manual_seed(5)
    list(make(photographs, num_workers=2).train_dataloader())
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), drawn)


@pytest.mark.parametrize("cache", ["disk", "memory", "device", "none"])
def test_images_are_the_same_with_every_cache(photographs: Path, tmp_path: Path, cache: str) -> None:
    expected = fit(make(photographs), tmp_path)
    data = make(photographs, cache=cache, num_workers=0)
    assert (data.find_near_duplicates() is None) == (cache == "none")
    found = fit(data, tmp_path)
    assert found.keys() == expected.keys()
    for batches, others in zip(found.values(), expected.values(), strict=True):
        for (index, image), (other_index, other) in zip(batches, others, strict=True):
            assert torch.equal(index, other_index)
            assert torch.equal(image, other)
    rows = np.array([5, 0, 7])
    assert np.array_equal(data.read_images(rows), make(photographs).read_images(rows))


def test_pixels_that_are_on_the_device_are_gathered_there(photographs: Path, tmp_path: Path) -> None:
    """As on a GPU: the loader hands over the index alone."""
    data = make(photographs)
    expected = fit(data, tmp_path)
    data.pixels = SimpleNamespace(device=torch.device("meta"), gather=data.pixels.gather)  # type: ignore[assignment]
    data.setup("fit")
    assert next(iter(data.train_dataloader())).keys() == {"label", "index"}
    for batches, others in zip(fit(data, tmp_path).values(), expected.values(), strict=True):
        for (_, image), (_, other) in zip(batches, others, strict=True):
            assert torch.equal(image, other)


def test_pixels_can_be_moved_again(photographs: Path) -> None:
    store = make(photographs).pixels
    index = torch.tensor([30, 3, 11])
    expected = store.gather(index)
    store.load(torch.device("cpu"))
    assert torch.equal(store.gather(index), expected)
    store._positions = torch.arange(36).flip(0)  # as if what is loaded lay elsewhere
    store.images = store.images.flip(0)
    store.load(torch.device("cpu", 0))
    assert torch.equal(store.gather(index), expected)


def test_near_duplicates_of_too_many_images_are_not_counted(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make(photographs)
    assert data.find_near_duplicates() == NearDuplicates(0, 0, 12)
    monkeypatch.setattr(duplicates, "MAX_IMAGES_PER_RUN", 35)
    assert data.find_near_duplicates() is None


def test_reading_no_images_gives_an_empty_array(photographs: Path) -> None:
    none = np.array([], np.int64)
    assert (
        make(photographs, cache="none").read_images(none).shape
        == make(photographs).read_images(none).shape
        == (0, 16, 16, 3)
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("cache", ["disk", "none"])
def test_rows_of_a_table_which_are_read_only_give_no_warning(photographs: Path, cache: str) -> None:
    data = make(photographs, cache=cache)
    rows = np.array([3, 1])
    rows.flags.writeable = False
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        assert data.read_images(rows).shape == (2, 16, 16, 3)
    finally:
        torch.set_warn_always(always)


def test_in_another_process_pixels_are_mapped_and_not_copied(photographs: Path) -> None:
    store = make(photographs, image_size=64).pixels
    content = pickle.dumps(store)
    assert len(content) < store.nbytes / 50
    index = torch.tensor([3, 30])
    assert torch.equal(pickle.loads(content).gather(index), store.gather(index))


def test_pixels_that_do_not_fit_into_memory_are_refused_with_a_hint(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make(photographs, cache="memory")
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    with pytest.raises(UserError, match=r"need 0\.0 GB, this machine has 0\.0 GB of memory; data\.cache=disk"):
        fit(data, tmp_path)


def test_auto_num_workers_is_0_unless_nothing_is_cached(photographs: Path) -> None:
    assert make(photographs).num_workers == 0
    assert make(photographs, cache="none").num_workers == joblib.cpu_count()


class Recorder(LightningModule):
    """Keeps every batch that arrives, and the worker processes that there are then."""

    def __init__(self) -> None:
        super().__init__()
        self.workers: list[set[int | None]] = []
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches: dict[tuple[str, int], list[tuple[Tensor, Tensor]]] = {}

    def _keep(self, stage: str, batch: dict[str, Tensor]) -> None:
        self.batches.setdefault((stage, self.current_epoch), []).append((batch["index"], batch["image"].clone()))
        self.workers.append({process.pid for process in multiprocessing.active_children()})

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        self._keep("train", batch)
        return self.weight.sum()

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        self._keep("val", batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(
    data: DefectData, folder: Path, recorder: Recorder | None = None
) -> dict[tuple[str, int], list[tuple[Tensor, Tensor]]]:
    """What arrives in two epochs."""
    recorder = recorder or Recorder()
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(recorder, datamodule=data)
    return recorder.batches


def test_only_training_images_are_augmented_and_each_epoch_differs(photographs: Path, tmp_path: Path) -> None:
    with_augment, without = (fit(make(photographs, augment=augment), tmp_path) for augment in ({"degrees": 20}, None))
    assert with_augment.keys() == {(stage, epoch) for stage in ("train", "val") for epoch in (0, 1)}
    for (stage, epoch), batches in with_augment.items():
        for (index, image), (index_without, image_without) in zip(batches, without[stage, epoch], strict=True):
            assert torch.equal(index, index_without)
            assert image_without.dtype == torch.uint8
            if stage == "val":
                assert torch.equal(image, image_without)
            else:
                assert image.dtype == torch.float32
                assert image.max() <= 1
                assert not torch.allclose(image * 255, image_without.float(), atol=1)
    order = [torch.cat([index for index, _ in without["train", epoch]]).tolist() for epoch in (0, 1)]
    assert order[0] != order[1]
    by_epoch = [
        {int(i): x for index, image in with_augment["train", epoch] for i, x in zip(index, image, strict=True)}
        for epoch in (0, 1)
    ]
    common = by_epoch[0].keys() & by_epoch[1].keys()
    assert common
    assert not any(torch.allclose(by_epoch[0][i], by_epoch[1][i], atol=1e-3) for i in common)


def test_workers_stay_for_all_epochs_and_yield_the_batches_of_each(photographs: Path, tmp_path: Path) -> None:
    expected, recorder = fit(make(photographs), tmp_path), Recorder()
    found = fit(make(photographs, cache="none", num_workers=1), tmp_path, recorder)
    assert len(set.union(*recorder.workers)) == 2  # one for training, one for validation
    assert not multiprocessing.active_children()
    assert found.keys() == expected.keys()
    for batches, others in zip(found.values(), expected.values(), strict=True):
        for (index, image), (other_index, other) in zip(batches, others, strict=True):
            assert torch.equal(index, other_index)
            assert torch.equal(image, other)


def test_split_does_not_depend_on_the_root(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").symlink_to(photographs, target_is_directory=True)
    here, there = (
        DefectData(source="folder", root=str(r), image_size=8, batch_size=1, split=SPLIT)
        for r in (photographs, tmp_path / "elsewhere")
    )
    assert here.catalog.equals(there.catalog)
    assert here.pixels is None  # listing decodes nothing


@pytest.mark.parametrize(
    ("source", "options", "reason"),
    [
        ("folder", {"synthetic": {"images": 5}}, "got an unexpected keyword argument 'synthetic'"),
        ("tianchi", {"round": 2, "roots": "x"}, "got an unexpected keyword argument 'roots'"),
        ("synthetic", {}, "missing a required argument: 'synthetic'"),  # and nothing is written among photographs
    ],
)
def test_options_of_another_source_are_refused(photographs: Path, source: str, options: Any, reason: str) -> None:
    message = f"data.source={source}: {reason}; data={source} sets source and options together"
    with pytest.raises(UserError, match=re.escape(message)):
        unprepared(photographs, source=source, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": {"name": "random", "seed": 0, "val_fraction": 0}}, r"split\.val_fraction=0 and"),
        ({"split": {"name": "random", "seed": 0, "fold": 1}}, "unexpected keyword argument 'fold'; split=random sets"),
        ({"split": {"name": "file", "file": "no such.csv"}}, r"split\.file=no such\.csv cannot be read"),
        ({"source": "tianchi", "round": 3}, r"data\.round=3 does not exist"),
    ],
)
def test_wrong_options_are_refused_when_the_data_are_made(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        unprepared(tmp_path / "no such folder", **options)


def test_unknown_source_and_split_are_refused_with_the_nearest_name(photographs: Path) -> None:
    with pytest.raises(UserError, match=r"data\.source=foldr does not exist; did you mean folder\?"):
        make(photographs, source="foldr")
    with pytest.raises(UserError, match=r"split\.name=randon does not exist; did you mean random\?"):
        make(photographs, split={**SPLIT, "name": "randon"})


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_several_processes_evaluate_each_image_once_in_as_many_batches(photographs: Path, processes: int) -> None:
    data = make(photographs, batch_size=2)
    alone = indices(data.val_dataloader())
    together, batches = [], []
    for rank in range(processes):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=processes)  # type: ignore[assignment]
        own = list(data.val_dataloader())
        batches.append(len(own))
        for batch in own:
            counted = len(batch["label"]) - batch.get("filler", 0)
            together += batch["index"][:counted].tolist()
            assert batch["image"].shape[0] == len(batch["label"])
    assert sorted(together) == sorted(alone)
    assert len(set(batches)) == 1


def test_several_processes_train_on_different_images_in_as_many_batches(photographs: Path) -> None:
    data = make(photographs, batch_size=2)
    alone = indices(data.train_dataloader(), epoch=3)
    shares = []
    for rank in range(5):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=5)  # type: ignore[assignment]
        shares.append(indices(data.train_dataloader(), epoch=3))
    assert {len(share) for share in shares} == {len(alone) // 5 // 2 * 2}
    assert len(set(itertools.chain(*shares))) == 5 * len(shares[0])
    assert set(itertools.chain(*shares)) <= set(data.find_rows("train").tolist())


def test_workers_of_a_resumed_run_start_with_the_order_of_its_epoch(photographs: Path) -> None:
    """They are given their first batches when the loader's iterator is made, before Lightning sets the epoch."""
    data = make(photographs, num_workers=1)
    wanted = indices(data.train_dataloader(), epoch=2)
    data.first_epoch = 2
    assert [int(i) for batch in data.train_dataloader() for i in batch["index"]] == wanted


@pytest.fixture
def broken(photographs: Path, tmp_path: Path) -> Path:
    """`photographs`, of which two are none."""
    root = Path(shutil.copytree(photographs, tmp_path / "photographs"))
    (root / "along" / "along 3.png").write_bytes(b"no image")
    (root / "plain" / "plain 7.png").write_bytes((root / "plain" / "plain 7.png").read_bytes()[:500])
    return root


def test_images_that_cannot_be_decoded_are_all_named(broken: Path) -> None:
    with pytest.raises(UserError, match=r"^2 images cannot be decoded") as caught:
        make(broken)
    assert str(broken / "along" / "along 3.png") in str(caught.value)
    assert str(broken / "plain" / "plain 7.png") in str(caught.value)
    assert "data.on_broken=exclude" in str(caught.value)


def test_images_that_cannot_be_decoded_are_excluded_and_the_others_stay_in_their_split(broken: Path) -> None:
    data = unprepared(broken, on_broken="exclude")
    before = data.catalog.set_index("path")
    data.setup("fit")
    paths = ["along/along 3.png", "plain/plain 7.png"]
    assert tuple(data.excluded.columns) == EXCLUDED_COLUMNS
    assert data.excluded["path"].tolist() == paths
    assert data.excluded["label"].tolist() == ["along", "plain"]
    assert data.excluded["split"].tolist() == before.loc[paths, "split"].tolist()
    assert set(data.excluded["reason"]) == {"cannot be decoded"}
    assert data.excluded["detail"].str.contains("not an image|truncated|broken", case=False).all()
    after = data.catalog.set_index("path")
    pd.testing.assert_frame_equal(after, before.drop(index=paths))
    assert data.class_counts() == [int((after.query("split == 'train'")["label"] == c).sum()) for c in data.classes]
    batch = next(iter(data.val_dataloader()))
    for image, index in zip(batch["image"], batch["index"], strict=True):
        path = broken / data.catalog["path"].iloc[int(index)]
        assert np.array_equal(image.permute(1, 2, 0).numpy(), decode.decode(path, (16, 16)))


def test_a_class_without_images_that_can_be_decoded_is_an_error(broken: Path) -> None:
    for number, image in enumerate(sorted((broken / "plain").iterdir())):
        image.write_bytes(f"none {number}".encode())
    with pytest.raises(UserError, match=r"class plain has no images in train: it has 0 .* that can be decoded"):
        make(broken, on_broken="exclude")


def test_a_changed_image_is_an_error_and_not_excluded(photographs: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(photographs, tmp_path / "photographs"))
    data = unprepared(root, on_broken="exclude", image_size=18)  # a size that nobody has decoded yet
    assert len(data.catalog) == 36
    (root / "plain" / "plain 7.png").write_bytes(b"no image, and not the file that was cataloged")
    with pytest.raises(UserError, match=r"plain 7.png .*it has changed since it was cataloged"):
        data.setup("fit")


@pytest.mark.parametrize("source", ["folder", "table"])
def test_dead_links_are_named_or_excluded(photographs: Path, tmp_path: Path, source: str) -> None:
    root = Path(shutil.copytree(photographs, tmp_path / "photographs"))
    (root / "plain" / "gone.png").symlink_to("/nowhere/gone.png")
    options: dict[str, Any] = {"source": source}
    if source == "table":
        lines = [f"{path.relative_to(root)},{path.parent.name}" for path in sorted(root.rglob("*.png"))]
        (root / "labels.csv").write_text("\n".join(["path,label", *lines]), encoding="utf-8")
        options["table"] = root / "labels.csv"
    message = r"1 image cannot .*exclude\):\n.*gone\.png \(OSError: a link to /nowhere/gone\.png, which is not there\)"
    with pytest.raises(UserError, match=message):
        make(root, **options)
    data = make(root, on_broken="exclude", **options)
    assert len(data.catalog) == 36
    broken = data.excluded.set_index("path").loc["plain/gone.png"]
    assert broken[["label", "reason"]].tolist() == ["plain", "cannot be decoded"]
    assert broken["detail"] == "a link to /nowhere/gone.png, which is not there"


def test_on_broken_exclude_needs_a_cache(photographs: Path) -> None:
    with pytest.raises(UserError, match=r"data\.on_broken=exclude .* data\.cache=none"):
        make(photographs, on_broken="exclude", cache="none")


def test_setup_makes_the_data_sets_of_its_stage_only(photographs: Path) -> None:
    for stage, splits in {"fit": {"train", "val"}, "validate": {"val"}, "test": {"test"}, "predict": {"all"}}.items():
        data = unprepared(photographs)
        data.predict_split = "all"
        data.prepare_data()
        assert not data._datasets
        data.setup(stage)
        assert set(data._datasets) == splits


def test_prepared_data_decode_nothing_again_in_another_process(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = unprepared(photographs)
    data.prepare_data()
    expected = data.catalog
    sent = pickle.dumps(data)
    monkeypatch.setattr(sources, "find_images", None)
    monkeypatch.setattr(decode, "decode", None)
    received: DefectData = pickle.loads(sent)
    received.prepare_data()
    received.setup("fit")
    pd.testing.assert_frame_equal(received.catalog, expected)
    data.setup("fit")
    for own, other in zip(received.train_dataloader(), data.train_dataloader(), strict=True):
        assert torch.equal(own["image"], other["image"])


class Predictor(LightningModule):
    """Returns index and label of every batch."""

    def predict_step(self, batch: dict[str, Tensor], _: int) -> tuple[Tensor, Tensor]:
        assert batch["image"].dtype == torch.uint8
        return batch["index"], batch["label"]


def predict(data: DefectData, folder: Path) -> dict[int, int]:
    """Catalog row → class id, from `trainer.predict`."""
    trainer = Trainer(accelerator="cpu", logger=False, default_root_dir=folder, enable_progress_bar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = trainer.predict(Predictor(), datamodule=data)
    pairs = [pair for index, label in found for pair in zip(index.tolist(), label.tolist(), strict=True)]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.mark.parametrize("split", ["val", "test"])
def test_prediction_serves_the_batches_of_an_evaluation(photographs: Path, tmp_path: Path, split: str) -> None:
    data = make(photographs, augment={"degrees": 20})
    data.predict_split = split
    data.setup("predict")
    order = indices(getattr(data, f"{split}_dataloader")())
    assert indices(data.predict_dataloader()) == order
    assert list(predict(data, tmp_path)) == order
    assert sorted(order) == list(data.find_rows(split))


def test_all_images_of_a_split_catalog_can_be_predicted(photographs: Path, tmp_path: Path) -> None:
    data = make(photographs)
    data.predict_split = "all"
    assert sorted(predict(data, tmp_path)) == list(range(36))


def test_unlabelled_and_loose_images_are_predicted_with_the_classes_of_a_model(
    photographs: Path, tmp_path: Path
) -> None:
    root = tmp_path / "images"
    (root / "plain").mkdir(parents=True)
    for number in range(5):
        shutil.copy(photographs / "plain" / f"plain {number}.png", root / "plain" if number > 2 else root)
    data = unprepared(root, split={})
    data.set_catalog(root, sources.find_images("folder", {"root": str(root)})[1].table, ["other", "plain"])
    data.predict_split = "all"
    data.prepare_data()
    assert data.classes == ["other", "plain"]
    labels = data.catalog["label"]
    assert {labels[row]: label for row, label in predict(data, tmp_path).items()} == {"": -1, "plain": 1}
    listed = unprepared(root, split={})
    pd.testing.assert_frame_equal(listed.catalog, data.catalog)
    assert listed.classes == ["plain"]


def test_broken_images_are_excluded_from_prediction(broken: Path, tmp_path: Path) -> None:
    data = unprepared(broken, split={}, on_broken="exclude")
    data.predict_split = "all"
    assert len(predict(data, tmp_path)) == len(data.catalog) == 34
    assert len(data.excluded) == 2


def test_unknown_predict_split_is_refused(photographs: Path) -> None:
    data = make(photographs)
    data.predict_split = "train"
    with pytest.raises(UserError, match="predict_split=train does not exist"):
        data.setup("predict")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pit/x.png", "pit/deep/y.png"], "one class only, pit; a classifier needs two or more classes$"),
        (["all/pit/x.png", "all/good/y.png"], r"If its folders good, pit are the classes, give data\.root=.*/all"),
        (
            ["x.png", "a/x.png", "b/x.png"],
            r"x\.png and 0 other images lie in no class folder, .*; move each into a folder",
        ),
        (["x.png", "y.png"], r"x\.png and 1 other images lie in no class folder"),
    ],
)
def test_images_that_no_classifier_can_be_trained_on_are_refused(
    tmp_path: Path, names: list[str], message: str
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    with pytest.raises(UserError, match=message):
        unprepared(tmp_path).prepare_data()
    assert len(unprepared(tmp_path, split={}).catalog) == len(names)


def test_images_without_a_class_or_with_several_are_excluded_from_training(tmp_path: Path) -> None:
    names = ["guangdong_round1_test_a_20180916/0.jpg", "ali2018/norm/1.jpg"]
    names += [f"ali2018/{c.ali2018}/{n}.jpg" for c in CLASSES[:2] for n in range(3)]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>"
    xml = "".join(f"<object><name>{c.apspc}</name>{box}</object>" for c in CLASSES[1:3])
    (tmp_path / "APSPC").mkdir()
    (tmp_path / "APSPC" / "a.jpg").write_bytes(b"several")
    (tmp_path / "APSPC" / "a.xml").write_text(f"<annotation>{xml}</annotation>")
    data = unprepared(tmp_path, source="tianchi")
    assert set(data.catalog["label"]) == {c.name for c in CLASSES[:2]}
    rows = data.excluded.set_index("path")[["label", "split", "reason"]]
    assert rows.loc["APSPC/a.jpg"].tolist() == ["non_conductive|scuffed", "", "of several classes"]
    assert rows.loc[names[0]].tolist() == ["", "", "without a class"]
