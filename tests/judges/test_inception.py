"""Features of the Inception network: equal to pytorch-fid's, addressed by all they depend on, named by their number."""

import hashlib
import io
import os
import re
import runpy
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unnoise.data.fetch import Remote
from unnoise.errors import UserError
from unnoise.evaluate import Reference, compared
from unnoise.judges import inception as module
from unnoise.judges.inception import Extractor, Inception
from unnoise.metrics import Moments, frechet_distance
from unnoise.nets import inception
from unnoise.spec import build, describe
from unnoise.trial import Trial

HERE = Path(__file__).parents[1] / "golden"
GOLDEN = np.load(HERE / "inception.npz")
RULES = runpy.run_path(str(HERE / "make_inception.py"))
real = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data")


def called(extractor: Extractor, raw: Tensor) -> dict[str, list[str]]:
    """What figures are called, by the name of the features that `extractor` gives."""
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    real = Reference(Moments.of(x), x, x[:0])
    trial = Trial(60)
    return {k: [f.name for f in compared([x], real, k, trial, neighbours=False)] for k in extractor.named(raw)}


def tensors(*pictures: Any) -> list[Tensor]:
    return [torch.from_numpy(np.array(p)) for p in pictures]


def release() -> dict[str, Tensor]:
    return load_file(Path(os.environ["UNNOISE_DATA"], "inception/inception2015_to_mixed7a_fp16.safetensors"))


def drawn(dims: int, seed: int, without: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the rule of the golden file, batch norm not folded in."""
    state = inception.Inception(dims).state_dict()
    shapes = {k[:-7]: v.shape for k, v in state.items() if k.endswith(".weight") and k not in without}
    return {k: torch.from_numpy(v) for k, v in RULES["drawn"](shapes, seed).items()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of drawn weights for 192 features."""
    path = tmp_path_factory.mktemp("weights") / "drawn.safetensors"
    save_file(drawn(192, 1, {}), path)
    return path


@real
def test_pitfall_33_features_are_pytorch_fids(tmp_path: Path) -> None:
    """Pitfall 33: a FID differs by library. Published weights (drawn ones in the last two blocks), real pictures of
    several sizes and one or three channels: all five layers agree with pytorch-fid to 1e-4 of the largest feature."""
    published = release()
    save_file({**published, **drawn(2048, 2, published)}, tmp_path / "whole.safetensors")
    extractor = Inception(2048, str(tmp_path / "whole.safetensors")).load()
    pictures = tensors(*RULES["real_pictures"](), *RULES["pictures"]())
    found = [extractor.features(p[None]) for p in pictures]
    for d in inception.DIMS:
        ours, theirs = RULES["kept"](torch.cat([f[d] for f in found]).numpy()), GOLDEN[f"published_{d}"]
        assert (np.abs(ours - theirs).max(1) < 1e-4 * np.abs(theirs[:, :-1]).max(1)).all()
    assert called(extractor, pictures[0][None]) == {
        "768": ["fd-768", "fd-768 at infinity", "kid-768"],
        "1280": ["fd-1280", "fd-1280 at infinity", "kid-1280"],
        "2048": ["fid", "fid at infinity", "kid-2048"],
    }


@real
def test_pitfall_33_the_distance_is_pytorch_fids() -> None:
    """Pitfall 33: 80 pictures of CIFAR-10 against 80 others, in 64 features."""
    extractor = Inception(64).load()
    a, b = (Moments.of(extractor(*tensors(x))) for x in RULES["two_sets"]())
    assert float(frechet_distance(a, b)) == pytest.approx(float(GOLDEN["distance_64"]), rel=1e-4)


@real
def test_the_published_part_is_found_and_named_by_number() -> None:
    extractor = Inception().load(torch.device("cpu"))
    assert extractor.name == "1280" and extractor.dims == 1280 and extractor.published
    x = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    named, plain = extractor.named(x), extractor.features(x)
    assert list(named) == ["768", "1280"] and all(torch.equal(v, plain[int(k)]) for k, v in named.items())
    assert extractor.key == {"inception": extractor.digest}
    # Another file, or another way of handing pictures over, would make every number another one, and this digest.
    assert extractor.digest == "3b7e45a561a79472fcd0c16be1657034af1bca56afd90c4b7b68f6e450e65e38"
    assert Inception(768).load().digest != extractor.digest


def test_other_weights_do_not_pass_for_the_published_ones(small: Path, tmp_path: Path) -> None:
    """Pitfall 33: what is compared is what the digest says."""
    extractor = Inception(192, str(small)).load()
    assert not extractor.published and extractor.name == f"192@{extractor.digest[:8]}"
    name, x = f"192@{extractor.digest[:8]}", torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    assert called(extractor, x) == {name: [f"fd-{name}", f"fd-{name} at infinity", f"kid-{name}"]}
    state = load_file(small)
    save_file(state, tmp_path / "same.safetensors")
    assert Inception(192, str(tmp_path / "same.safetensors")).load().digest == extractor.digest
    assert Inception(64, str(small)).load().digest != extractor.digest
    save_file({k: v * 1.0001 for k, v in state.items()}, tmp_path / "other.safetensors")
    assert Inception(192, str(tmp_path / "other.safetensors")).load().digest != extractor.digest
    net = inception.Inception(2048)
    assert Extractor(net, torch.device("cpu"), "0" * 64).name == "2048@00000000"  # its distance is no FID


def test_a_row_is_the_same_in_any_batch(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = Inception(192, str(small)).load()
    x = torch.arange(5 * 3 * 20 * 24).mul(7919).remainder(256).to(torch.uint8).reshape(5, 3, 20, 24)
    whole = extractor(x)
    assert whole.shape == (5, 192) and whole.dtype == torch.float32 and not whole.requires_grad
    monkeypatch.setattr("unnoise.judges.inception.BATCH", 2)
    torch.testing.assert_close(extractor(x), whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.cat([extractor(x[3:]), extractor(x[:3])]), whole.roll(-3, 0), rtol=1e-5, atol=1e-6)
    both = extractor.features(x)
    assert list(both) == [64, 192] and torch.equal(both[192], extractor(x))


def test_gray_is_the_same_thing_three_times(small: Path) -> None:
    extractor = Inception(64, str(small)).load()
    (gray,) = tensors(RULES["pictures"]()[1][None])
    assert torch.equal(extractor(gray), extractor(gray.expand(1, 3, 28, 28)))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(1, 4, 8, 8, dtype=torch.uint8), "1 or 3 channels, got 4: convert them"),
        (torch.zeros(1, 2, 8, 8, dtype=torch.uint8), "1 or 3 channels, got 2"),
        (torch.zeros(1, 3, 8, 8), r"as uint8 \[N, C, H, W\], got torch.float32 \[1, 3, 8, 8\]"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"got torch.uint8 \[3, 8, 8\]"),
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), r"got torch.uint8 \[0, 3, 8, 8\]"),
    ],
    ids=str,
)
def test_other_pictures_are_refused(small: Path, x: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Inception(64, str(small)).load()(x)


def test_files_that_do_not_hold_the_network_are_refused(small: Path, tmp_path: Path) -> None:
    without = r"has no 'Mixed_5b\.branch1x1\.weight', which 1280 features need: without path the whole network is downl"
    with pytest.raises(UserError, match=without):
        Inception(1280, str(small)).load()
    state = load_file(small)
    for name, content, message in (
        ("shape", {**state, "Conv2d_2a_3x3.conv.weight": torch.zeros(32, 32, 1, 1)}, "another network: 'Conv2d_2a_3x3"),
        ("norm", {k: v for k, v in state.items() if k != "Conv2d_2a_3x3.bn.bias"}, r"no 'Conv2d_2a_3x3\.bn\.bias'"),
    ):
        save_file(content, tmp_path / f"{name}.safetensors")
        with pytest.raises(UserError, match=rf"{name}\.safetensors .*{message}"):
            Inception(192, str(tmp_path / f"{name}.safetensors")).load()
    (tmp_path / "cut.safetensors").write_bytes(small.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cut\.safetensors is not a readable safetensors file"):
        Inception(192, str(tmp_path / "cut.safetensors")).load()
    with pytest.raises(UserError, match=r"no such file: .*none\.safetensors"):
        Inception(192, str(tmp_path / "none.safetensors")).load()
    with pytest.raises(UserError, match="is a folder, not a file of weights"):
        Inception(192, str(tmp_path)).load()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], list[str]]]:
    """In the place of the network's publisher: a call puts a file there and gives the list of what will be asked for;
    neither data nor cache hold any weights."""
    content, seen = [b""], list[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content[0])))
            self.end_headers()
            self.wfile.write(content[0])

        def log_message(self, *arguments: Any) -> None:
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.delenv("UNNOISE_DATA", raising=False)
    monkeypatch.setenv("UNNOISE_CACHE", str(tmp_path / "cache"))

    def publish(file: bytes) -> list[str]:
        content[0] = file
        url = f"http://127.0.0.1:{serving.server_address[1]}/whole.pth"
        monkeypatch.setattr(module, "FULL", Remote((url,), hashlib.sha256(file).hexdigest(), len(file)))
        return seen

    yield publish
    serving.shutdown()
    thread.join()
    serving.server_close()


def pth(content: Any) -> bytes:
    """As torch.save writes it."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def test_the_whole_network_is_downloaded_where_none_is_at_hand(
    server: Callable[[bytes], list[str]], small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, into the cache; a .pth holds the same network as a safetensors file of the same tensors."""
    state = load_file(small)
    seen = server(pth({**state, "fc.weight": torch.zeros(3, 2)}))  # what is not needed does no harm
    extractor = Inception(192).load()
    assert "Szegedy et al. 2015, Apache-2.0" in capsys.readouterr().err
    x = torch.arange(3 * 20 * 24).mul(7919).remainder(256).to(torch.uint8).reshape(1, 3, 20, 24)
    assert torch.equal(extractor(x), Inception(192, str(small)).load()(x))
    assert Inception(192).load().digest == extractor.digest and seen == ["/whole.pth"]
    assert (tmp_path / "cache" / "inception" / "whole.pth").is_file()
    with pytest.raises(UserError, match=r"whole\.pth has no 'Mixed_5b\.branch1x1\.weight', which 2048 features need"):
        Inception(2048).load()


def test_weights_in_the_data_come_before_a_download(
    server: Callable[[bytes], list[str]], small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part where it is enough, then the whole, then the network's publisher."""
    seen = server(small.read_bytes())
    folder = tmp_path / "data" / "inception"
    folder.mkdir(parents=True)
    monkeypatch.setenv("UNNOISE_DATA", str(tmp_path / "data"))
    (folder / "whole.pth").write_bytes(pth(drawn(64, 7, {})))
    whole = Inception(64).load()
    assert whole.digest == Inception(64, str(folder / "whole.pth")).load().digest
    save_file(drawn(64, 8, {}), folder / module.PART)
    part = Inception(64).load()
    assert part.digest == Inception(64, str(folder / module.PART)).load().digest != whole.digest and not seen
    with pytest.raises(UserError, match=r"whole\.pth has no 'Conv2d_3b_1x1\.weight', which 2048 features need"):
        Inception(2048).load()  # the part is not even looked at


def test_a_folder_of_data_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNNOISE_DATA", str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"UNNOISE_DATA=.*gone is no folder"):
        Inception(64).load()


def test_without_weights_or_network_the_remedies_are_named(
    server: Callable[[bytes], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FULL", Remote(("http://127.0.0.1:9/whole.pth",), "0" * 64, 1))
    with pytest.raises(UserError) as e:
        Inception(2048).load()
    assert re.fullmatch(
        rf"http://127\.0\.0\.1:9/whole\.pth cannot be reached: .*save it as {tmp_path}/cache/inception/whole\.pth; "
        r"or compare without it: -s 'judge\.features=Means\(\)'",
        str(e.value),
    )


class Evil:
    """What an unpickler would run."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("evil"),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pth({"Conv2d_1a_3x3.weight": Evil()}), "is no readable file of weights: .*"),
        (pth(inception.Inception(64)), "is no readable file of weights: .*"),
        (pth([torch.zeros(2)]), "holds no table of tensors: the state_dict of a network is wanted"),
        (pth({"net": {"weight": torch.zeros(2)}}), "holds no table of tensors: the state_dict of a network is wanted"),
        (pth({"a": torch.zeros(999)})[:1500], "is no readable file of weights: .*"),
        (b"", "is no readable file of weights: .*"),
        (b"no pickle at all", "is no readable file of weights: .*"),
    ],
    ids=["code", "a module", "a list", "nested", "cut short", "empty", "text"],
)
def test_a_file_of_anything_but_tensors_is_refused(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line, and nothing in it is run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UserError, match=rf"^{tmp_path}/x\.pth {message}$") as e:
        Inception(64, str(tmp_path / "x.pth")).load()
    assert "\n" not in str(e.value) and not (tmp_path / "evil").exists()


@real
def test_2048_features_of_the_part_are_refused() -> None:
    path = str(Path(os.environ["UNNOISE_DATA"], "inception/inception2015_to_mixed7a_fp16.safetensors"))
    with pytest.raises(UserError, match=r"has no 'Mixed_7b\.branch1x1\.weight'.*: dims=1280 needs less"):
        Inception(2048, path).load()


def test_it_is_a_value() -> None:
    assert Inception() == Inception(1280) and build(describe(Inception(768))) == Inception(768)
    with pytest.raises(ValueError, match="dims must be one of 64, 192, 768, 1280, 2048, got 512"):
        Inception(512)
