"""The published autoencoders: their shapes, their losses, and what each of them does otherwise than the others."""

import numpy as np
import pytest
import torch
from conftest import SMALL, painted, plate
from torch import nn

from anomaly import detectors, nets
from anomaly.backbones import IMAGENET_MEAN, IMAGENET_STD
from anomaly.detectors import cae, vae
from anomaly.errors import UsageError

FAMILY = ("cae", "vae", "dae")
GOOD = [plate(i) for i in range(24)]
IMAGES = torch.stack([torch.from_numpy(plate(i)).permute(2, 0, 1) for i in range(6)]).float() / 255


def create(name, **options):
    return detectors.create(name, **SMALL | options)


def scores(detector):
    return [result.score for result in detector.score_batch([plate(100), painted(101)[0]])]


def seeded(number=0):
    return torch.Generator().manual_seed(number)


def variational(**options):
    torch.manual_seed(0)
    return nets.VariationalAutoencoder(frame=(64, 64), **options).eval()


# --- the networks


def test_the_code_and_the_drawing_have_the_published_shapes():
    network = nets.Autoencoder().eval()
    images = torch.zeros(1, 3, 256, 256)
    assert network.encoder(images).shape == (1, 256, 16, 16)
    assert network(images).shape == (1, 3, 256, 256)
    inner = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert [m.out_channels for m in inner] == [32, 64, 128, 256, 128, 64, 32, 3]
    assert isinstance(network.decoder[-1], nn.ConvTranspose2d)  # no activation after it
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == 7


def test_a_colour_may_leave_the_range_of_an_activation():
    network = nets.Autoencoder().eval()
    nn.init.constant_(network.decoder[-1].bias, -9.0)
    assert network(torch.zeros(1, 3, 32, 32)).max() < -5


def test_the_dense_layers_have_the_published_size():
    with torch.device("meta"):
        network = nets.VariationalAutoencoder(frame=(256, 256), spread=False)
    dense = [m.weight for m in network.modules() if isinstance(m, nn.Linear)]
    assert [tuple(weight.shape) for weight in dense] == [(128, 65536), (65536, 128)]
    assert sum(2 * weight.numel() for weight in dense) == 33_554_432  # bytes in half precision


@pytest.mark.parametrize(("bias", "clamped"), [(1e4, 2.0), (-1e4, -20.0)])
def test_the_logarithm_of_the_variance_is_clamped(bias, clamped):
    network = variational()
    nn.init.constant_(network.log_variance.bias, bias)
    assert torch.equal(network.code(IMAGES)[1], torch.full((6, 128), clamped))


def test_a_code_is_drawn_to_learn_and_is_its_mean_to_score():
    network = variational()
    mean, _ = network.code(IMAGES)
    assert torch.equal(network(IMAGES), network.decode(mean))
    losses = [create("vae")._loss(network, IMAGES, 0, seeded(i)).item() for i in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


# --- the losses


def test_the_divergence_of_a_code_written_out():
    mean, log_variance = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, np.log(4)]])
    # 0.5 (1 + 1 - 1 - 0) = 0.5 and 0.5 (4 + 4 - 1 - 1.3863) = 2.8069; twice their sum over 3 x 2 x 2 values
    assert vae.divergence(mean, log_variance, torch.zeros(1, 3, 2, 2)).item() == pytest.approx(0.55114, abs=1e-5)
    assert vae.divergence(torch.zeros(3, 8), torch.zeros(3, 8), torch.zeros(3, 3, 2, 2)).item() == 0


def test_the_divergence_comes_in_over_ten_epochs():
    network, detector = variational(), create("vae")
    with torch.inference_mode():
        nn.init.constant_(network.mean.bias, 30.0)  # far from the standard Gaussian: the divergence is no small matter
        loss = {epoch: detector._loss(network, IMAGES, epoch, seeded()).item() for epoch in (0, 5, 10, 50)}
    assert loss[10] - loss[0] > 1
    assert loss[5] - loss[0] == pytest.approx((loss[10] - loss[0]) / 2, rel=1e-4)
    assert loss[50] == loss[10]


def test_the_held_out_loss_of_the_variational_one_has_the_whole_divergence_from_the_start():
    """Or the first epochs would look best, and they would be kept."""
    network = variational()
    mean, log_variance = network.code(IMAGES)
    expected = cae.squared_error(network(IMAGES), IMAGES) + vae.divergence(mean, log_variance, IMAGES)
    assert create("vae")._held_out_loss(network, IMAGES).item() == pytest.approx(expected.item())


def test_noise_is_for_learning_only():
    """What a network that changes nothing would be told: 0.3 squared while it learns, 0 when it is examined."""
    dae, copies = create("dae"), nn.Identity()
    assert dae._loss(copies, IMAGES, 0, seeded()).item() == pytest.approx(0.09, rel=0.02)
    assert dae._held_out_loss(copies, IMAGES).item() == 0
    plain = create("cae")
    assert plain._loss(copies, IMAGES, 0, seeded()).item() == 0


def test_the_target_of_the_noisy_one_is_clean():
    class Clean(nn.Module):
        def forward(self, _):
            return IMAGES

    assert create("dae")._loss(Clean(), IMAGES, 0, seeded()).item() == 0


def test_an_epoch_sees_each_image_once_in_an_order_of_its_own():
    orders = cae._orders(torch.arange(40), 16, seeded())
    first, second = (torch.cat([next(orders) for _ in range(3)]) for _ in range(2))
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(40))
    assert not torch.equal(first, second)


# --- the score


class Grey(nn.Module):
    """Draws the mean colour of ImageNet, which is 0 once it is normalised."""

    def forward(self, images):
        return torch.zeros_like(images)


def test_the_error_is_squared_in_deviations_of_imagenet():
    detector = create("cae")
    detector._network = Grey()
    image = torch.tensor(IMAGENET_MEAN)[:, None, None].repeat(1, 32, 32)
    image[:, 8:16, 8:16] += torch.tensor([1.0, 2.0, 3.0])[:, None, None] * torch.tensor(IMAGENET_STD)[:, None, None]
    errors, drawn = detector._errors(image[None])
    assert errors[0, 0, 10, 10].item() == pytest.approx((1 + 4 + 9) / 3)
    assert errors[0, 0, :8].abs().max() == 0
    assert drawn[0, :, 10, 10].tolist() == pytest.approx(IMAGENET_MEAN)
    # 64 of 1024 pixels, each 14 / 3; the worst hundredth is 10 pixels, all of them in the square
    assert detector._total(errors).item() == pytest.approx(14 / 3 / 16)
    assert create("cae", pool="topk")._total(errors).item() == pytest.approx(14 / 3)


def test_the_pool_is_an_option_that_is_kept(tmp_path):
    mean, worst = (create("cae", pool=pool).fit(GOOD) for pool in ("mean", "topk"))
    assert scores(mean) != scores(worst)
    worst.save(tmp_path)
    assert scores(type(worst).load(tmp_path)) == pytest.approx(scores(worst), rel=1e-5)
    with pytest.raises(UsageError, match="pool is median, expected one of: mean, topk. Use mean"):
        create("cae", pool="median")


# --- a training


def examined(monkeypatch, name, losses):
    """Let the examinations after each epoch find these losses, whatever was learned."""
    kind, told = detectors.get(name), iter(losses)
    learned = kind._held_out_loss

    def loss(self, network, images):
        return learned(self, network, images) if network.training else torch.tensor(float(next(told)))

    monkeypatch.setattr(kind, "_held_out_loss", loss)


@pytest.mark.parametrize("name", FAMILY)
def test_patience_and_epochs_end_a_training_and_its_curve_tells(name, monkeypatch):
    assert len(create(name, epochs=3).fit(GOOD).history()) == 3
    examined(monkeypatch, name, [1] * 50)  # never better than after the first epoch
    assert len(create(name, epochs=50, patience=3).fit(GOOD).history()) == 1 + 3


@pytest.mark.parametrize("name", FAMILY)
def test_the_best_epoch_is_kept(name, monkeypatch):
    def trained(losses):
        with monkeypatch.context() as patch:
            examined(patch, name, losses)
            return scores(create(name, epochs=len(losses)).fit(GOOD))

    assert trained([1, 3, 4]) == trained([1]) != trained([4, 3, 1])


@pytest.mark.parametrize("name", FAMILY)
def test_the_left_out_loss_falls_and_the_last_drawing_is_nearest_to_the_photo(name):
    detector = create(name, epochs=30, rate=2e-3).fit(GOOD)
    losses = [line["held_out_loss"] for line in detector.history()]
    assert losses[-1] < 0.3 * losses[0]
    preview = detector.preview()
    assert list(preview.repairs) == [1, 2, 4, 8, 16, 30]
    off = {epoch: np.abs(made.astype(int) - preview.damaged).mean() for epoch, made in preview.repairs.items()}
    assert off[30] < 0.5 * off[1]


@pytest.mark.parametrize("name", FAMILY)
def test_a_training_that_is_ended_early_keeps_what_it_has(name):
    detector = create(name, epochs=99)
    detector.fit(GOOD, progress=lambda stage, done, total: stage == "train" and done >= 3)
    assert len(detector.history()) == 2 and np.isfinite(scores(detector)).all()


def test_only_what_scores_is_stored(tmp_path):
    detector = create("vae").fit(GOOD)
    stored = detector._state()
    assert not [key for key in stored if "log_variance" in key]
    assert stored["network.mean.weight"].dtype == torch.float16


def test_the_variational_one_learns_photos_that_are_not_square(tmp_path):
    wide = [np.concatenate((plate(i), plate(i)), axis=1) for i in range(8)]
    detector = create("vae").fit(wide)
    detector.save(tmp_path)
    assert detectors.get("vae").load(tmp_path).score(wide[0]).score == pytest.approx(detector.score(wide[0]).score)


def test_the_place_of_the_error_is_explained():
    image, mask = painted(100)
    rows, columns = np.nonzero(mask)
    detector = create("cae", epochs=30, rate=2e-3).fit(GOOD)
    there = detector.explain(image, (int(columns.min()), int(rows.min()), 10, 10)).shares
    assert list(there) == ["error at this place", "error elsewhere"] and there["error at this place"] > 0.3
    assert detector.explain(image, (0, 54, 10, 10)).shares["error at this place"] < 0.1
