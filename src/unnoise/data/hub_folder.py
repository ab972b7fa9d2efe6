"""Pictures of a folder that Hugging Face `datasets` wrote by `save_to_disk`, read without the network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

from unnoise.data.picture_files import Content, Listed, OnDisk, Part, PictureFile, Tally
from unnoise.errors import UserError

_HELD_OUT = ("test", "validation", "valid")
"""Splits that are held out: the first of them that is there."""


@dataclass(frozen=True, slots=True)
class InTable:
    """A picture of a row of a table.

    Args:
        name: split and row.
        size: its bytes.
        folder: of the table.
        column: with the pictures.
        row: from 0.
    """

    name: str
    size: int
    folder: str
    column: str
    row: int

    def open(self) -> Content:
        """Its content, as it was stored."""
        return BytesIO(_table(self.folder)[self.row][self.column]["bytes"])


def is_hub_folder(path: Path) -> bool:
    """Whether `save_to_disk` wrote it."""
    return (path / "dataset_dict.json").is_file() or ((path / "state.json").is_file() and _is_table(path))


def in_hub_folder(path: Path, skipped: Tally) -> Listed:
    """The pictures of a table, or of the tables "train" and "test" (or "validation").

    Raises:
        UserError: where `datasets` is not installed, the folder is damaged, or has no column of pictures.
    """
    parts: list[tuple[Path, Part | None]] = [(path, None)]
    if (path / "dataset_dict.json").is_file():
        splits = sorted(p.name for p in path.iterdir() if _is_table(p))
        if "train" not in splits:
            raise UserError(f"{path} has no split 'train', only {splits}: name one of them, as {path}/SPLIT")
        away = next((s for s in _HELD_OUT if s in splits), None)
        parts = [(path / "train", "train" if away else None)]
        if away:
            parts.append((path / away, "held_out"))
    files: list[PictureFile] = []
    label: list[str | None] = []
    part: list[Part | None] = []
    classes: tuple[str, ...] = ()
    for folder, where in parts:
        table = _read(folder)
        picture, kind = _column(table, "Image"), _column(table, "ClassLabel")
        if picture is None:
            raise UserError(f"{folder} has no column of pictures, only {table.column_names}: cast one to Image")
        classes = tuple(table.features[kind].names) if kind else ()
        for row, entry in enumerate(_table(str(folder)).select_columns([k for k in (picture, kind) if k])):
            name, value = f"{folder.name}[{row}]", entry.get(kind)
            stored = entry[picture]
            if kind and (value is None or not 0 <= value < len(classes)):
                skipped.add("without a label", name)
            elif stored is None or (stored["bytes"] is None and not Path(stored["path"] or "").is_file()):
                skipped.add("missing", name)
            else:
                content = stored["bytes"]
                files.append(
                    OnDisk(name, Path(stored["path"]).stat().st_size, stored["path"])
                    if content is None
                    else InTable(name, len(content), str(folder), picture, row)
                )
                label.append(classes[value] if kind else None)
                part.append(where)
    return Listed(files, label, part, classes)


def _is_table(path: Path) -> bool:
    return (path / "dataset_info.json").is_file()


def _column(table: Any, feature: str) -> str | None:
    """The first column of this kind; of pictures one called image, of classes one called label, before others."""
    names = [k for k, v in table.features.items() if type(v).__name__ == feature]
    return next((k for k in ("image", "img", "label") if k in names), next(iter(names), None))


def _read(folder: Path) -> Any:
    try:
        import datasets
    except ImportError as e:
        raise UserError(f"{folder} is read by an extra: pip install 'unnoise[datasets]'") from e
    try:
        return datasets.load_from_disk(str(folder))
    except Exception as e:  # of Arrow's, JSON's and its own kinds
        raise UserError(f"{folder} is not a readable folder of datasets: {type(e).__name__}: {e}") from e


@lru_cache(maxsize=4)
def _table(folder: str) -> Any:
    """The table with pictures as bytes, opened once a process; it is mapped into memory, not read."""
    import datasets

    table = _read(Path(folder))
    for name, feature in table.features.items():
        if type(feature).__name__ == "Image":
            table = table.cast_column(name, datasets.Image(decode=False))
    return table
