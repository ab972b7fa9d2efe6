"""Loggers: lines of JSON that survive kills, and TensorBoard."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image as Pillow

from unnoise.errors import UserError
from unnoise.log import JsonLines, Logger, TensorBoard, read_json, read_lines


def test_going_on_drops_the_lines_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = JsonLines(path)
    for seen in (64, 128, 192):
        log.log(seen, {"loss": 1 / seen, "by": [None, 2.0]})
    again = JsonLines(path, 128)
    assert [line["seen"] for line in read_lines(path)] == [64, 128]
    again.log(192, {"loss": 5.0})
    assert read_lines(path)[2] == {"seen": 192, "loss": 5.0}
    assert read_lines(path)[0] == {"seen": 64, "loss": 1 / 64, "by": [None, 2.0]}
    assert [f.name for f in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"seen": 1}\n{"seen": 2}\n{"see')
    assert read_lines(path) == [{"seen": 1}, {"seen": 2}]
    JsonLines(path, 10).log(3, {})
    assert path.read_text() == '{"seen": 1}\n{"seen": 2}\n{"seen": 3}\n'
    assert read_lines(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("bad", [b'{"nope": 1}', b"5", b"null", b"\xff\xfe", b'{"seen": 1, "lo', b"", b"[" * 100_000])
def test_a_damaged_line_costs_no_other(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"seen": 1}\n' + bad + b'\n{"seen": 2, "loss": NaN}\n{"seen": 3}\n')
    assert [line["seen"] for line in read_lines(path)] == [1, 2, 3]
    JsonLines(path, 2).log(3, {})
    assert path.read_text() == '{"seen": 1}\n{"seen": 2, "loss": NaN}\n{"seen": 3}\n'


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"metrics.jsonl could not be written"):
        JsonLines(tmp_path / "file" / "metrics.jsonl")


def test_a_damaged_json_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json is not readable"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(json.dumps([1]))
    assert read_json(tmp_path / "a.json") == [1]


def test_tensorboard_writes_numbers_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.compat.proto.event_pb2 import Event

    board = TensorBoard(tmp_path / "tb")
    assert not (tmp_path / "tb").exists()  # a run begins in an empty folder
    board.log(64, {"loss": 0.25, "by": [None, 3.0], "name": "x"})
    board.image(64, "samples", Pillow.new("L", (5, 4)))
    board.writer.close()
    (file,) = (tmp_path / "tb").iterdir()
    data, found = file.read_bytes(), {}
    while data:  # length, its checksum, the event, its checksum
        size = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + size])
        data = data[16 + size :]
        for value in event.summary.value:
            found[value.tag] = (event.step, value)
    assert sorted(found) == ["by/1", "loss", "samples"]
    assert found["loss"][0] == 64 and found["loss"][1].simple_value == 0.25
    assert found["by/1"][1].simple_value == 3.0
    assert (found["samples"][1].image.width, found["samples"][1].image.height) == (5, 4)


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'unnoise\[tensorboard\]'"):
        TensorBoard(tmp_path)
    assert not list(tmp_path.iterdir())


def test_both_are_loggers(tmp_path: Path) -> None:
    assert isinstance(JsonLines(tmp_path / "x.jsonl"), Logger)
    assert issubclass(TensorBoard, Logger)
