"""Generated surfaces: each image depends on its number alone, and defects are seen where the mask says."""

import numpy as np
import pytest

from alu_defects.data.datamodule import DefectData
from alu_defects.synthetic import SurfaceOptions, write_surfaces
from alu_defects.synthetic import surface_set as surfaces
from alu_defects.synthetic.surface_defects import KINDS, Defect
from alu_defects.synthetic.surfaces import Canvas, Noise, Pattern, Texture

SMALL = SurfaceOptions(images=12, textures=2, defects=2, side=48)


def test_an_image_depends_on_seed_and_number_alone():
    images = [surfaces.draw_surface(SMALL, index).pixels for index in range(12)]
    more = SurfaceOptions(images=500, textures=2, defects=2, side=48)
    for index in (11, 3):  # in another order, of a larger set
        surfaces.recipe.cache_clear()
        np.testing.assert_array_equal(surfaces.draw_surface(more, index).pixels, images[index])
    other = SurfaceOptions(images=12, textures=2, defects=2, side=48, seed=1)
    assert not np.array_equal(surfaces.draw_surface(other, 3).pixels, images[3])
    assert len({image.tobytes() for image in images}) == 12


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_the_surface_where_its_mask_is(kind):
    seen = []
    for number in range(8):
        canvas = Canvas(np.random.default_rng([1, number]), 96, light=1.0)
        Defect.sample(np.random.default_rng([2, number]), kind).draw(canvas)
        change = np.abs(canvas.brightness())
        assert np.isfinite(change).all()
        assert canvas.mask.any()
        seen.append(change[canvas.mask].mean() > 3 * change[~canvas.mask].mean() if not canvas.mask.all() else True)
    assert np.mean(seen) >= 0.75  # relief is lit at its flanks, and a crack may pass the border


@pytest.mark.parametrize("number", range(20))
def test_textures_have_the_brightness_that_is_asked_for(number):
    rng = np.random.default_rng(number)
    values = Texture.sample(rng).draw(rng, 64, 0.3, 1.2, 0.5)
    assert values.shape == (64, 64)
    assert values.dtype == np.float32
    assert values.mean() == pytest.approx(0, abs=0.01)
    assert values.std() == pytest.approx(1, abs=0.01)


def test_noise_is_drawn_out_along_its_angle():
    values = Noise(10, 0.5, 25, 0.0).draw(np.random.default_rng(0), 128)
    along, across = (np.abs(np.diff(values, axis=axis)).mean() for axis in (1, 0))
    assert across > 3 * along


def test_stripes_repeat_after_their_period():
    pattern = Pattern("stripes", 0.25, 0.0, 0.0, 0.0, 0.0)
    values = pattern.draw(np.random.default_rng(0), 64)
    np.testing.assert_allclose(values[:, :16], values[:, 16:32], atol=1e-3)
    assert np.abs(np.diff(values, axis=0)).max() < 1e-3


def test_a_set_has_a_folder_for_each_class_and_is_finished_after_an_interruption(tmp_path):
    root = write_surfaces(tmp_path / "a", SMALL, workers=1, progress=False)
    names = sorted(path.name for path in root.iterdir())
    assert len(names) == 6
    assert [name for name in names if name.endswith("_good")] == ["0000_good", "0001_good"]
    files = {path.relative_to(root): path.read_bytes() for path in root.rglob("*.jpg")}
    assert len(files) == 12
    unfinished = tmp_path / "b" / f"{root.name}.part"
    (unfinished / "0000_good").mkdir(parents=True)
    (unfinished / "0000_good" / "0000000.jpg").write_bytes(files[next(f for f in files if f.name == "0000000.jpg")])
    again = write_surfaces(tmp_path / "b", SMALL, workers=2, progress=False)
    assert {path.relative_to(again): path.read_bytes() for path in again.rglob("*.jpg")} == files


def test_a_training_takes_generated_surfaces(tmp_path):
    options = {"images": 48, "textures": 2, "defects": 1, "side": 32, "seed": 0}
    data = DefectData(
        source="surfaces",
        root=str(tmp_path / "surfaces"),
        surfaces=options,
        cache_dir=str(tmp_path / "pixels"),
        image_size=32,
        batch_size=4,
        split={"name": "random", "seed": 0},
        progress=False,
    )
    data.prepare_data()
    assert [name for name in data.classes if name.endswith("_good")] == ["0000_good", "0001_good"]
    assert data.class_counts("train") == [8, 8, 8, 8]
