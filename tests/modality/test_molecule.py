"""Molecules as a product of positions and types: the codec, and symmetries through the whole sampling loop."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unnoise.core.denoiser import Preconditioned
from unnoise.core.discrete import Absorbing
from unnoise.core.level import CLEAN
from unnoise.core.objective import Joint
from unnoise.core.parameterization import Categorical, Edm
from unnoise.core.process import Gaussian
from unnoise.core.product import Product
from unnoise.core.rng import Rng
from unnoise.core.space import Padded, ZeroCoM
from unnoise.core.weight import EdmWeight, Sigmoid
from unnoise.data import Qm7, read_xyz, write_xyz
from unnoise.errors import UserError
from unnoise.modality import Molecules, SizeEnergy
from unnoise.model import Model
from unnoise.nets import EGNN
from unnoise.recipe import Sampling
from unnoise.sample import Ancestral
from unnoise.sample.driver import sample
from unnoise.spec import build, describe

needs_data = pytest.mark.skipif(not os.environ.get("UNNOISE_DATA"), reason="UNNOISE_DATA names no folder of data sets")
SIZES = SizeEnergy(first=4, counts=(1, 2, 3), means=(-400.0, -500.0, -600.0), stds=(20.0, 30.0, 40.0), most=6)
TIGHT = {"rtol": 0.0, "atol": 1e-9}


@pytest.fixture(params=[True, False], ids=["tokens", "onehot"])
def tokens(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def perturbed(tokens: bool) -> Preconditioned:
    """A small denoiser in float64 with no zero left in it."""
    torch.manual_seed(0)
    kinds: dict[str, Any] = {"vocabulary": 6} if tokens else {"types": 5}
    net = EGNN(outputs=5, width=8, depth=2, vector=3, **kinds).double()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    meaning: Any = Categorical() if tokens else Edm(sigma_data=0.1)
    return Preconditioned(net, {"positions": Edm(sigma_data=1.0), "types": meaning}, interval=(-15.0, 15.0))


def product(tokens: bool, positions: Gaussian | None = None) -> Product:
    return Product(
        {"positions": positions or Gaussian(ZeroCoM()), "types": Absorbing(5) if tokens else Gaussian(Padded())}
    )


def walk(
    tokens: bool, process: Any, size: Tensor, most: int, seeds: range, eta: float = 1.0
) -> list[dict[str, Tensor]]:
    """The states of eight steps in float64, from the prior on."""
    codec = Molecules(tokens=tokens, most=most)
    conditioner = replace(SIZES, most=most)
    denoiser = perturbed(tokens)
    cond = conditioner.encode({"size": size, "energy": -100.0 * size.double()})
    process = process.bind(cond["mask"])
    grid = Sampling().grid(8, denoiser.interval)
    blank = {k: v.double() if v.is_floating_point() else v for k, v in codec.blank(len(size)).items()}
    rng = Rng.of(list(seeds))
    x = process.forward(blank, CLEAN, grid.at(0), rng.fold(0))
    return [x, *(s.x for s in sample(Ancestral(eta), process, denoiser, x, grid, rng.fold(1), cond))]


def rotation() -> Tensor:
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double())[0]
    return q * torch.linalg.det(q)


@dataclass(frozen=True)
class Turned(Gaussian):
    """The same noise, rotated."""

    turn: Tensor | None = None

    def noise(self, like: Tensor, rng: Rng) -> Tensor:
        assert self.turn is not None
        return super().noise(like, rng) @ self.turn.T


@dataclass(frozen=True)
class Permuted(Product):
    """The same draws for the same atoms in another order."""

    order: Tensor

    def bind(self, mask: Any) -> "Permuted":
        return Permuted(super().bind(mask[:, self.order.argsort()]).parts, self.order)

    def project(self, est: Any) -> Any:
        return {k: v._replace(x0=v.x0[:, self.order]) for k, v in super().project(self._own(est)).items()}

    def forward(self, x: Any, src: Any, dst: Any, rng: Rng) -> Any:
        return {k: v[:, self.order] for k, v in super().forward(self._own(x), src, dst, rng).items()}

    def backward(self, x: Any, est: Any, src: Any, dst: Any, rng: Rng, **how: Any) -> Any:
        drawn = super().backward(self._own(x), self._own(est), src, dst, rng, **how)
        return {k: v[:, self.order] for k, v in drawn.items()}

    def _own(self, x: Any) -> Any:
        own = self.order.argsort()
        return {k: v[:, own] if isinstance(v, Tensor) else v._replace(x0=v.x0[:, own]) for k, v in x.items()}


# Symmetries -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_rotating_the_noise_rotates_the_samples(tokens: bool, eta: float) -> None:
    size, turn = torch.tensor([4, 6, 5]), rotation()
    own = walk(tokens, product(tokens), size, 6, range(3), eta)
    other = walk(tokens, product(tokens, Turned(ZeroCoM(), turn)), size, 6, range(3), eta)
    for a, b in zip(own, other, strict=True):
        torch.testing.assert_close(b["positions"], a["positions"] @ turn.T, **TIGHT)
        torch.testing.assert_close(b["types"], a["types"], **TIGHT)
    assert float((own[-1]["positions"] - other[-1]["positions"]).abs().max()) > 0.1


def test_permuting_permutes(tokens: bool) -> None:
    size, order = torch.tensor([6, 6]), torch.tensor([3, 5, 0, 1, 4, 2])
    own = walk(tokens, product(tokens), size, 6, range(2))
    other = walk(tokens, Permuted(product(tokens).parts, order), size, 6, range(2))
    for a, b in zip(own, other, strict=True):
        for part in a:
            torch.testing.assert_close(b[part], a[part][:, order], **TIGHT)
    assert float((own[-1]["positions"] - other[-1]["positions"]).abs().max()) > 0.1


def test_padding_leaks_nothing_into_samples(tokens: bool) -> None:
    """A molecule alone without padding, and as one of a batch that is padded to 23 atoms."""
    batch = walk(tokens, product(tokens), torch.tensor([4, 6, 5]), 23, range(3))
    alone = walk(tokens, product(tokens), torch.tensor([6]), 6, range(1, 2))
    for a, b in zip(alone, batch, strict=True):
        for part in a:
            torch.testing.assert_close(b[part][1:2, :6], a[part], **TIGHT)
            assert not bool(b[part][1, 6:].any()) and not bool(b[part][0, 4:].any())


def test_the_centre_of_mass_is_zero_at_every_step(tokens: bool) -> None:
    size = torch.tensor([4, 6, 5])
    for state in walk(tokens, product(tokens), size, 8, range(3)):
        positions = state["positions"]
        assert float(positions.sum(1).abs().max()) < 1e-12
        assert not bool(positions[torch.arange(8) >= size[:, None]].any())
        assert float(positions.abs().max()) > 0.1


def test_the_joint_loss_of_a_molecule_alone_is_that_in_a_padded_batch(tokens: bool) -> None:
    weights = {"positions": EdmWeight(1.0), "types": Sigmoid(bias=0) if tokens else EdmWeight(0.1)}
    objective = Joint(process=product(tokens), weights=weights, factors={"types": 0.5})
    generator, sizes = torch.Generator().manual_seed(0), [6, 4, 5]
    x = torch.zeros(3, 8, 4)
    for row, n in zip(x, sizes, strict=True):
        row[:n, :3] = torch.randn(n, 3, generator=generator)
        row[:n, 3] = torch.tensor([1.0, 6, 7, 8, 16, 6])[:n]
    batch = {"x": x, "size": torch.tensor(sizes), "energy": torch.tensor([-600.0, -400, -520])}
    u, keys, model = torch.tensor([0.9, 0.4, 0.7]).double(), Rng.of([5, 6, 7]), perturbed(tokens)

    def losses(most: int, rows: slice) -> Tensor:
        parts = {"model": model, "codec": Molecules(tokens=tokens, most=most), "conditioner": replace(SIZES, most=most)}
        columns = {k: v[rows] for k, v in batch.items()} | {"x": x[rows, :most]}
        loss = objective.at(u[rows], parts, columns, keys[rows])
        return loss.weight * loss.value

    whole = losses(8, slice(0, 3))
    assert bool((whole > 0).all())
    for i in range(3):
        torch.testing.assert_close(losses(6, slice(i, i + 1)), whole[i : i + 1], rtol=1e-5, atol=1e-6)


# The codec ------------------------------------------------------------------------------------------------------------


@needs_data
def test_molecules_come_back(tokens: bool) -> None:
    data = Qm7().load().held_out
    codec = Molecules(tokens=tokens)
    codec.check(data["x"])
    x = codec.encode(data["x"])
    assert abs(float(x["positions"][data["x"][..., 3] > 0].std()) - 1) < 0.05
    back = codec.decode(x, torch.arange(23) < data["size"][:, None])
    torch.testing.assert_close(back, data["x"], rtol=0, atol=1e-6)
    assert torch.equal(back[..., 3], data["x"][..., 3])
    assert {k: v.shape[1:] for k, v in codec.blank(2).items()} == {k: v.shape[1:] for k, v in x.items()}


def test_types_are_numbered_by_the_elements() -> None:
    raw = torch.tensor([[[0.0, 0, 0, 8], [1.3, 0, 0, 1], [0, 0, 0, 0]]])
    x = Molecules(elements=(8, 1), most=3).encode(raw)
    assert x["types"].tolist() == [[0, 1, 0]] and x["types"].dtype == torch.int64
    assert x["positions"][0, 1].tolist() == [1.0, 0.0, 0.0]
    features = Molecules(elements=(8, 1), most=3, tokens=False, onehot_scale=0.5).encode(raw)["types"]
    assert features[0, :2].tolist() == [[0.5, 0.0], [0.0, 0.5]]


def test_a_type_that_is_still_masked_is_no_atom() -> None:
    x = {"positions": torch.ones(1, 2, 3), "types": torch.tensor([[5, 1]])}
    assert Molecules(most=2, scale=2.0).decode(x).tolist() == [[[0, 0, 0, 0], [2, 2, 2, 6]]]


def test_states_that_are_not_finite_are_no_molecules() -> None:
    x = {"positions": torch.full((1, 2, 3), torch.nan), "types": torch.zeros(1, 2, dtype=torch.int64)}
    with pytest.raises(FloatingPointError):
        Molecules(most=2).decode(x)


def test_xyz_files_out_and_in(tmp_path: Path) -> None:
    raw = torch.tensor([[0.1, -0.25, 1 / 3, 16], [1.0, 2.0, 3.0, 1], [0, 0, 0, 0]])
    Molecules(most=3).write(raw, tmp_path / "a.xyz")
    (molecule,), _ = read_xyz(tmp_path / "a.xyz")
    assert torch.equal(molecule, raw[:2]) and [f.name for f in tmp_path.iterdir()] == ["a.xyz"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[:, :2], r"the codec expects floats \(3, 4\)"),
        (lambda x: x.long(), "torch.int64"),
        (
            lambda x: x.index_put((torch.tensor(1), torch.tensor(0), torch.tensor(3)), torch.tensor(9.0)),
            "atom 0 of molecule 1 is F",
        ),
        (
            lambda x: x.index_put((torch.tensor(0), torch.tensor(1), torch.tensor(3)), torch.tensor(6.5)),
            "atomic number 6.5",
        ),
        (
            lambda x: x.index_put((torch.tensor(1), torch.tensor(0)), torch.zeros(4)),
            "molecule 1 is empty or has padding",
        ),
        (lambda x: x.repeat(8, 1, 1) * torch.tensor([100.0, 100, 100, 1]), "set codec.scale"),
    ],
)
def test_what_is_no_molecule_is_refused(change: Callable[[Tensor], Tensor], message: str) -> None:
    x = torch.tensor([[[0.0, 0, 0, 8], [1, 0, 0, 1], [0, 1, 0, 1]], [[0, 0, 0, 6], [1.2, 0, 0, 8], [0, 0, 0, 0]]])
    Molecules(most=3).check(x)
    with pytest.raises(UserError, match=message):
        Molecules(most=3).check(change(x))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"elements": (1, 1)}, r"elements are different atomic numbers.*\(1, 1\)"),
        ({"elements": (0,)}, r"1 to 118, got \(0,\)"),
        ({"elements": ()}, "elements"),
        ({"scale": 0.0}, "scale > 0"),
        ({"most": 0}, "most >= 1"),
    ],
)
def test_arguments_that_make_no_codec(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Molecules(**wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": (1, 2)}, "one count >= 0, mean and std for each size"),
        ({"counts": (0, 0, 0)}, "one count >= 0"),
        ({"stds": (1.0, 0.0, 1.0)}, "stds must be > 0"),
        ({"most": 5}, "sizes lie in 1 to most=5, got 4 to 6"),
    ],
)
def test_tables_that_are_none(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SIZES, **change)


def test_codec_and_conditions_are_values() -> None:
    for value in (Molecules(tokens=False), SIZES):
        assert build(describe(value)) == value


# Sizes and energies ---------------------------------------------------------------------------------------------------


@needs_data
def test_the_table_of_the_recipe_is_that_of_the_training_molecules() -> None:
    from unnoise.recipes.qm7 import SIZES as table

    data = Qm7().load()
    assert SizeEnergy.of(data.train["size"], data.train["energy"], most=23) == table
    for columns in (data.train, data.held_out):
        told = table.encode(columns)["vector"]
        assert abs(float(told[:, 0].mean())) < 0.1 and abs(float(told[:, 0].std()) - 1) < 0.1


def test_sizes_and_energies_follow_from_each_seed_alone() -> None:
    n = 20_000
    drawn = SIZES.ask({}, torch.arange(n))
    share = torch.bincount(drawn["size"], minlength=7)[4:] / n
    assert bool(((share - torch.tensor([1, 2, 3]) / 6).abs() < 5 * (0.25 / n) ** 0.5).all())
    of_six = drawn["energy"][drawn["size"] == 6].double()
    assert abs(float(of_six.mean()) + 600) < 2 and 33 < float(of_six.std()) < 40  # a normal cut at 2 std
    again = SIZES.ask({}, torch.arange(100, 110))
    assert all(torch.equal(again[k], drawn[k][100:110]) for k in drawn)


def test_a_size_follows_from_the_energy_that_is_asked_for() -> None:
    sizes = SIZES.ask({"energy": -400}, torch.arange(2000))["size"]
    p = torch.tensor([1 / 20, 2 / 30 * torch.tensor(-((100 / 30) ** 2) / 2).exp(), 3 / 40 * torch.tensor(-12.5).exp()])
    share = torch.bincount(sizes, minlength=7)[4:] / 2000
    torch.testing.assert_close(share, p / p.sum(), rtol=0, atol=0.01)
    far = SIZES.ask({"energy": [-1e6, 1e6]}, torch.arange(2))["size"]
    assert bool(((far >= 4) & (far <= 6)).all())


def test_what_is_asked_for_is_given() -> None:
    asked = SIZES.ask({"size": "all", "energy": [-500.0, -600.5]}, torch.arange(4))
    assert asked["size"].tolist() == [4, 5, 6, 4] and asked["energy"].tolist() == [-500.0, -600.5, -500.0, -600.5]


def test_nothing_said_keeps_the_mask() -> None:
    cond = SIZES.encode({"size": torch.tensor([4, 6]), "energy": torch.tensor([-420.0, -600.0])})
    assert cond["mask"].sum(1).tolist() == [4, 6]
    torch.testing.assert_close(cond["vector"], torch.tensor([[-1.0, 1.0, 4 / 6], [0.0, 1.0, 1.0]]))
    null = SIZES.null(cond)
    assert torch.equal(null["mask"], cond["mask"])
    torch.testing.assert_close(null["vector"], torch.tensor([[0.0, 0.0, 4 / 6], [0.0, 0.0, 1.0]]))
    assert torch.equal(SIZES.encode({"size": torch.tensor([4, 6])})["vector"], null["vector"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"size": 3}, "size=3 is out of range: molecules have 4 to 6 atoms"),
        ({"size": 4.5}, r"size=4.5 is out of range"),
        ({"sizes": 4}, "unknown condition 'sizes'.*size"),
        ({"energy": float("nan")}, "finite"),
        ({"energy": "all"}, "takes numbers, got 'all'"),
    ],
)
def test_conditions_that_do_not_exist(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SIZES.ask(asked, torch.arange(2))


def test_data_without_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="no column 'size'"):
        SIZES.encode({"energy": torch.zeros(2)})


# A model --------------------------------------------------------------------------------------------------------------


def test_a_model_samples_molecules_of_the_sizes_asked_for(tokens: bool) -> None:
    codec = Molecules(tokens=tokens, most=6)
    model = Model(perturbed(tokens).float(), codec, product(tokens), SIZES, Sampling(Ancestral(), steps=4))
    drawn = model.sample(5, seed=3, size=[4, 5, 6])
    assert (drawn.raw[..., 3] > 0).sum(1).tolist() == [4, 5, 6, 4, 5]
    codec.check(drawn.raw)
    one = model.sample(1, seed=4, size=5, energy=float(drawn.cond["energy"][1]))
    torch.testing.assert_close(one.raw, drawn.raw[1:2], rtol=0, atol=1e-4)
    assert drawn.name(0).startswith("seed000003-size4-energy") and drawn.name(0).endswith(".xyz")


def test_own_molecules_through_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad xyz file is one line that names file and line, before anything is trained."""
    from unnoise.cli import main

    file, out = tmp_path / "own.xyz", tmp_path / "run"
    write_xyz([torch.tensor([[0.0, 0, 0, 8], [0.96, 0, 0, 1], [-0.24, 0.93, 0, 1], [9, 9, 9, 1]])] * 40, file)
    file.write_text(file.read_text().replace("O ", "Xx", 1))
    assert main(["train", "qm7", "-s", f"data=Molecules(path='{file}')", "--out", str(out)]) == 2
    found = capsys.readouterr().err
    assert "line 3: there is no element 'Xx'" in found and found.count("\n") == 1
    assert not out.exists()
