"""What only a GPU can show; run by hand where there is one: python -m pytest tests/gpu."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from unnoise import checkpoint, recipes
from unnoise.core.denoiser import Preconditioned
from unnoise.core.parameterization import V
from unnoise.core.rng import Rng, philox
from unnoise.data.stream import batches
from unnoise.fit import resume, start
from unnoise.model import Model
from unnoise.nets import UNet
from unnoise.nets.attention import attend
from unnoise.override import override
from unnoise.runtime import Runtime, default_precision
from unnoise.state import State
from unnoise.train import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
GPU = torch.device("cuda")


def small(**changes: str):
    recipe = recipes.load("digits")[0]
    for key, value in {"model.net.width": "16", "samples": "2560", **changes}.items():
        recipe = override(recipe, f"{key}={value}")
    return recipe


def test_words_are_bit_identical_and_normals_within_2_ulp_of_the_cpu():
    keys = torch.arange(6, dtype=torch.int64) * 123456789
    host = philox([keys] * 4, [keys, keys + 1])
    device = philox([keys.to(GPU)] * 4, [keys.to(GPU), (keys + 1).to(GPU)])
    assert all(torch.equal(a, b.cpu()) for a, b in zip(host, device, strict=True))
    like = torch.zeros(64, 3, 33, 17)
    a, b = Rng.of(range(64)).normal(like), Rng.of(range(64)).normal(like.to(GPU)).cpu()
    ulp = torch.nextafter(a.abs(), torch.tensor(torch.inf)) - a.abs()
    assert float(((a - b).abs() / ulp).max()) <= 2
    assert torch.equal(Rng.of(range(64)).uniform(like), Rng.of(range(64)).uniform(like.to(GPU)).cpu())


def test_the_fused_kernel_gives_the_words_of_its_eager_twin():
    from unnoise.core.philox import _rounds
    from unnoise.core.philox_cuda import run

    words = [(Rng.of(range(k, k + 4099)).key[:, k % 2] * (k + 1)) & 0xFFFFFFFF for k in range(6)]
    eager = _rounds([w.to(GPU) for w in words])
    assert all(torch.equal(a, b) for a, b in zip(eager, run([w.to(GPU) for w in words]), strict=True))
    assert all(torch.equal(a.cpu(), b) for a, b in zip(eager, philox(words[:4], words[4:]), strict=True))


def test_a_batch_of_another_size_draws_the_same_noise_to_the_bit():
    like = torch.zeros(64, 3, 32, 32, device=GPU)
    whole = Rng.of(range(64)).normal(like)
    assert torch.equal(whole[7:9], Rng.of(range(7, 9)).normal(like[:2]))


def test_training_in_bf16_learns_and_resumes(tmp_path: Path):
    assert default_precision(GPU) == "bf16"
    recipe = small(samples="12800")
    start(recipe, tmp_path / "run", Runtime(GPU))
    from unnoise.log import read_lines

    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert lines[-1]["held_out"] < 0.8 * lines[0]["held_out"]
    contents = checkpoint.read(checkpoint.locate(tmp_path / "run"))
    assert contents.facts["precision"] == "bf16"
    state = resume(tmp_path / "run", Runtime(GPU), samples=14080)
    assert state.seen == 14080
    model = Model.load(tmp_path / "run")
    assert (model.precision, model.to(GPU).precision, model.to("cpu").precision) == ("fp32", "bf16", "fp32")


def test_fp16_with_its_loss_scale_trains_without_a_skip_that_lasts():
    recipe = small()
    state = State(recipe, 0, GPU, recipe.samples, torch.float16)
    data = recipe.data.load()
    for _ in train(recipe, state, batches(data.train, recipe.batch, seed=0, device=GPU), Runtime(GPU)):
        pass
    assert state.scale is not None
    assert 1 <= float(state.scale.value) <= 2**16
    assert int(state.bad[:, 2].sum()) < 17
    assert all(torch.isfinite(p).all() for p in state.components["model"].parameters())


def test_samples_agree_with_the_cpu_and_between_batch_sizes(tmp_path: Path):
    start(small(), tmp_path / "run", Runtime(GPU), precision="fp32")
    host, device = Model.load(tmp_path / "run"), Model.load(tmp_path / "run", device=GPU)
    a, b = (m.sample(16, steps=8).raw.float() for m in (host, device))
    assert float((a - b).abs().mean()) < 16 * 1e-3  # integers of 0..16: a rounding may fall the other way
    whole, alone = device.sample(9, deterministic=True).raw, device.sample(1, seed=5, deterministic=True).raw
    assert torch.equal(whole[5:6], alone)


def test_a_step_of_training_never_waits_for_the_device(no_waiting: Callable[[], AbstractContextManager[None]]):
    recipe = replace(small(), log_every=1000, patience=1000)
    state = State(recipe, 0, GPU, recipe.samples, torch.bfloat16)
    data = recipe.data.load()
    steps = train(recipe, state, batches(data.train, recipe.batch, seed=0, device=GPU), Runtime(GPU))
    for _ in range(3):
        next(steps)
    torch.cuda.synchronize()
    with no_waiting():
        for _ in range(3):
            next(steps)


def test_the_network_compiles_in_one_graph_with_inductor():
    net = UNet(channels=3, width=32, multipliers=(1, 2), blocks=1, attention=(2,), head_width=16, labels={"label": 10})
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.02 * Rng.of(range(p.shape[0])).normal(torch.zeros_like(p)) if p.ndim else 0)
    model = Preconditioned(net, V()).to(GPU)
    x, c = torch.ones(4, 3, 16, 16, device=GPU), torch.linspace(0, 1, 4, device=GPU)
    label = torch.arange(4, device=GPU)
    eager = model.net(x, c, label=label).detach()
    compiled = torch.compile(model.net, fullgraph=True)(x, c, label=label).detach()
    assert float((eager - compiled).abs().max()) < 5e-3 * float(eager.abs().max())  # tf32


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("more", [[], ["--shard"], ["--capture"]])
def test_two_gpus_train_to_the_weights_of_one(tmp_path: Path, more: list[str]):
    arguments = ["train", "digits", "--precision", "fp32", "--samples", "1280", "-s", "model.net.dropout=0"]
    one, two = tmp_path / "one", tmp_path / "two"
    env = {**os.environ, "NCCL_NVLS_ENABLE": "0"}
    subprocess.run([sys.executable, "-m", "unnoise", *arguments, "--out", str(one)], check=True, env=env)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "unnoise"]
    subprocess.run([*torchrun, *arguments, *more, "--out", str(two)], check=True, env=env)
    a, b = (checkpoint.read(checkpoint.locate(p)).weights["model"] for p in (one, two))
    worst = max(float((a[k] - b[k]).abs().max()) for k in a)
    print(f"largest difference of a weight after 20 steps on 2 GPUs {more}: {worst:.2e}")
    assert worst < 1e-4


def test_wide_heads_attend_alike_with_and_without_derivatives():
    """By products where derivatives are taken, else by torch's fused kernel."""
    q, k, v = torch.randn(3, 2, 64, 256, device=GPU).bfloat16().unbind(0)
    with torch.no_grad():
        fused = attend(q, k, v, 1)
    products = attend(q.requires_grad_(), k, v, 1).detach()
    assert float((fused - products).float().norm() / fused.float().norm()) < 1e-2
