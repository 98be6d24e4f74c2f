"""The networks that the detectors start from: the optimiser, distillation with resume, the repair network."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from anomaly import backbones, detectors, pretraining
from anomaly.descent import Descent, Muon, autocast
from anomaly.errors import BackboneError, TooFewImages
from anomaly.images import write_image

SHORT = pretraining.Settings(steps=4, minutes=5, batch=2, crop=64, rate=1e-3)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(50):
        write_image(folder / f"{i}.png", rng.integers(0, 256, (80, 72, 3), dtype=np.uint8))
    return folder


@pytest.fixture
def teacher(monkeypatch):
    """Any backbone can be imitated, the real teacher is an optional package; and compiling would take a minute."""
    monkeypatch.setattr(backbones, "load", lambda name: backbones.untrained("efficientnet_lite2", seed=5))
    monkeypatch.setattr(shutil, "which", lambda name: None)


def test_descent_fits_a_linear_map_and_leaves_no_parameter_untouched():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1))
    kernels = [network[0].weight]
    before = [p.detach().clone() for p in network.parameters()]
    x = torch.randn(16, 6, 5, 5)
    wanted = x[:, :3] - 2 * x[:, 3:]
    descent = Descent(list(network.parameters()), kernels, weight_decay=0.0)
    losses = []
    for _ in range(150):
        loss = (network(x) - wanted).square().mean()
        network.zero_grad()
        loss.backward()
        descent.step(0.02)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
    # the bias before a batch normalisation has no gradient
    moved = [not torch.equal(a, b) for a, b in zip(before, network.parameters())]
    assert moved[0] and all(moved[2:])


def test_muon_moves_every_direction_of_a_kernel_alike():
    kernel = nn.Parameter(torch.zeros(4, 4, 1, 1))
    kernel.grad = torch.diag(torch.tensor([100.0, 1.0, 1.0, 0.5]))[..., None, None]
    Descent([kernel, nn.Parameter(torch.zeros(1))], [kernel], weight_decay=0.0).step(1.0)
    steps = torch.linalg.svdvals(kernel.detach().flatten(1))
    assert steps.max() / steps.min() < 2  # 200 in the gradient


def test_muon_steps_as_that_of_pytorch_does_but_for_rounding():
    generator = torch.Generator().manual_seed(0)
    ours = nn.Parameter(torch.randn(6, 2, 3, 3, generator=generator))
    theirs = nn.Parameter(ours.detach().flatten(1).clone())
    one = Muon([ours], weight_decay=0.1)
    other = torch.optim.Muon([theirs], weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for part in (one, other):
            part.param_groups[0]["lr"] = 0.1
        ours.grad = torch.randn(ours.shape, generator=generator)
        theirs.grad = ours.grad.flatten(1)
        one.step(), other.step()
    assert torch.allclose(ours.flatten(1), theirs, atol=0.01)
    assert (ours.flatten(1) - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize("able", [True, False])
def test_half_precision_is_for_processors_that_compute_in_it(monkeypatch, able):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": able})
    with autocast(torch.device("cpu")):
        seen = nn.Linear(2, 2)(torch.ones(1, 2)).dtype
    assert seen == (torch.bfloat16 if able else torch.float32)


def test_pretrain_writes_weights_that_load_and_says_how_they_were_made(photos, teacher, tmp_path):
    seen = []
    out = tmp_path / "deep" / "weights"
    pretraining.pretrain([photos], out, settings=SHORT, progress=lambda *a: seen.append(a))
    about = json.loads((out / "manifest.json").read_text())
    assert about["steps"] == 4 and about["images"] == 50
    assert about["sha256"] == backbones.digest_of(out / "weights.safetensors")
    start = backbones.untrained("convnextv2_femto").state_dict()
    made = backbones.read("convnextv2_femto", out).state_dict()
    assert all(torch.isfinite(v).all() for v in made.values())
    kernels = [k for k, v in start.items() if v.ndim == 4]
    assert any("heads" in k for k in kernels)
    assert not any(torch.equal(made[k], start[k].half().float()) for k in kernels)
    assert not list(out.parent.glob("*.checkpoint"))


def test_pretrain_goes_on_from_given_weights(photos, teacher, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    pretraining.pretrain([photos], first, settings=SHORT)
    pretraining.pretrain([photos], second, settings=replace(SHORT, rate=0.0), start=first)
    about = [json.loads((out / "manifest.json").read_text()) for out in (first, second)]
    assert [one["began_from"] for one in about] == ["untrained-0", about[0]["sha256"]]
    a, b = (dict(backbones.read("convnextv2_femto", out).named_parameters()) for out in (first, second))
    assert all(torch.equal(a[k], b[k]) for k in a)
    with pytest.raises(BackboneError, match="are not in .*nowhere"):
        pretraining.pretrain([photos], second, settings=SHORT, start=tmp_path / "nowhere")


def test_a_pretraining_that_was_stopped_goes_on_where_it_was(photos, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "SAVED_EVERY", 2)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    pretraining.pretrain([photos], whole, settings=SHORT)

    class Stopped(Exception):
        pass

    def stop(*_):
        if (tmp_path / "halves.checkpoint").exists():
            raise Stopped

    real = pretraining._crops
    monkeypatch.setattr(pretraining, "_crops", lambda *a: (stop(), real(*a))[1])
    with pytest.raises(Stopped):
        pretraining.pretrain([photos], halves, settings=SHORT)
    monkeypatch.setattr(pretraining, "_crops", real)
    pretraining.pretrain([photos], halves, settings=SHORT)
    assert json.loads((halves / "manifest.json").read_text())["steps"] == 4
    a, b = (backbones.read("convnextv2_femto", out).state_dict() for out in (whole, halves))
    assert all(torch.allclose(a[k], b[k], atol=2e-3) for k in a)


def test_the_repair_network_becomes_a_start_for_unet(photos, tmp_path):
    settings = pretraining.Settings(steps=40, minutes=0.05)
    pretraining.pretrain_repair([photos], tmp_path / "repair", settings=settings)
    model = detectors.get("unet").load(tmp_path / "repair")
    assert model.start is None and model.base == 16


def test_pretraining_refuses_a_handful_of_images(tmp_path):
    write_image(tmp_path / "one.png", np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(TooFewImages, match="1 images were found.*at least 50"):
        pretraining.pretrain_repair([tmp_path], tmp_path / "out")
