"""What was sampled: rows, names, files and pictures."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from unnoise.errors import UserError
from unnoise.modality import Image, Plain
from unnoise.samples import Samples

RAW = (torch.arange(3 * 64) % 17).reshape(3, 1, 8, 8).to(torch.uint8)


@pytest.fixture
def samples() -> Samples:
    return Samples(RAW, torch.tensor([5, 6, -7]), {"label": torch.tensor([1, 0, 9])}, Image((1, 8, 8), 0, 16))


def test_rows_are_samples_too(samples: Samples) -> None:
    assert len(samples[1]) == 1 and len(samples[1:]) == 2 and len(samples[-1]) == 1
    assert samples[-1].seeds.tolist() == [-7] and samples[-1].cond["label"].tolist() == [9]
    assert torch.equal(samples[1:].raw, RAW[1:])
    for row in (3, -4):
        with pytest.raises(IndexError, match=f"row {row} of 3"):
            samples[row]
    assert [int(s.seeds) for s in samples] == [5, 6, -7]  # iteration ends


def test_an_array_is_the_raw_data(samples: Samples) -> None:
    assert np.array_equal(np.asarray(samples), RAW.numpy()) and np.asarray(samples).dtype == np.uint8
    assert np.asarray(samples, dtype=np.float32).dtype == np.float32


def test_an_archive_holds_data_seeds_and_conditions(samples: Samples, tmp_path: Path) -> None:
    (file,) = samples.save(tmp_path / "new" / "x.npz")
    with np.load(file) as archive:
        assert sorted(archive.files) == ["label", "seed", "x"]
        assert np.array_equal(archive["x"], RAW.numpy()) and archive["x"].dtype == np.uint8
        assert archive["seed"].tolist() == [5, 6, -7] and archive["label"].tolist() == [1, 0, 9]
    assert [f.name for f in file.parent.iterdir()] == ["x.npz"]


def test_a_folder_has_a_file_a_row_named_by_seed_and_conditions(samples: Samples, tmp_path: Path) -> None:
    files = samples.save(tmp_path / "out")
    assert [f.name for f in files] == ["seed000005-label1.png", "seed000006-label0.png", "seed-00007-label9.png"]
    assert sorted(tmp_path.glob("out/*")) == sorted(files)
    for file, raw in zip(files, RAW, strict=True):
        assert np.array_equal(np.asarray(Pillow.open(file)), np.round(raw[0].numpy() * (255 / 16)))


def test_a_grid_is_what_a_notebook_shows(samples: Samples, tmp_path: Path) -> None:
    (file,) = samples.save(tmp_path / "grid.png")
    shown = samples._repr_png_()
    assert shown is not None
    assert np.array_equal(np.asarray(Pillow.open(file)), np.asarray(Pillow.open(io.BytesIO(shown))))
    assert [f.name for f in tmp_path.iterdir()] == ["grid.png"]


def test_what_is_not_pictures_has_no_grid(tmp_path: Path) -> None:
    points = Samples(torch.zeros(2, 2), torch.arange(2), {}, Plain((2,)))
    assert points._repr_png_() is None
    with pytest.raises(UserError, match=r"Plain decodes is not a picture: write \.npz"):
        points.save(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())
    files = points.save(tmp_path / "out")
    assert [f.name for f in files] == ["seed000000.npy", "seed000001.npy"]
    assert np.load(files[0]).tolist() == [0, 0]


def test_other_suffixes_and_places_that_cannot_be_written_are_refused(samples: Samples, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"as '\.jpg': \.png is a grid"):
        samples.save(tmp_path / "x.jpg")
    (tmp_path / "file").write_text("")
    for name in ("file/x.png", "file/x.npz", "file/x"):
        with pytest.raises(UserError, match="could not be written"):
            samples.save(tmp_path / name)


def test_representation(samples: Samples) -> None:
    assert repr(samples) == "Samples((3, 1, 8, 8), uint8, seeds 5..-7)"
    assert repr(samples[:0]) == "Samples()"
