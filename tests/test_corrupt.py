"""What would teach an autoencoder nonsense: defects that nobody can see, masks that lie, damage that repeats."""

import pytest
import torch
from conftest import plate

from anomaly import corrupt as module
from anomaly.corrupt import VISIBLE, blob_mask, corrupt, disturb, perlin, shade, turn

PAINTERS = ("_texture_blend", "_cut_paste", "_scratch", "_blot", "_smear", "_warp")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def good():
    """(12, 3, 64, 64) float in [0, 1]."""
    return torch.stack([torch.from_numpy(plate(i)).permute(2, 0, 1) for i in range(12)]).float() / 255


def test_the_same_generator_gives_the_same_damage_and_another_gives_another(good):
    first, second, other = (corrupt(good, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_the_global_generator_is_neither_used_nor_moved(good):
    torch.manual_seed(1)
    before = torch.random.get_rng_state().clone()
    first = corrupt(good, generator())[0]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(corrupt(good, generator())[0], first)


def test_the_good_images_are_left_as_they_are(good):
    before = good.clone()
    corrupt(good, generator(), share=1.0)
    assert torch.equal(good, before)


def test_shapes_ranges_and_types(good):
    images, masks = corrupt(good, generator(), share=1.0)
    assert (images.shape, images.dtype) == (good.shape, good.dtype)
    assert (masks.shape, masks.dtype) == ((12, 1, 64, 64), good.dtype)
    assert images.min() >= 0 and images.max() <= 1
    assert set(masks.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("level", [None, 0.0, 1.0], ids=["plates", "black", "white"])
def test_the_mask_is_where_the_picture_visibly_changed(good, level):
    """Also where the damage runs into black or white: the network never sees what was clipped away."""
    before = good if level is None else torch.full_like(good, level)
    for seed in range(4):
        images, masks = corrupt(before, generator(seed), share=1.0)
        assert torch.equal(masks > 0, (images - before).abs().amax(1, keepdim=True) > VISIBLE)


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (1.0, 170, 240), (0.5, 80, 140)])
def test_share_says_how_many_are_damaged(good, share, low, high):
    images = good.repeat(20, 1, 1, 1)  # 240 images
    damaged, _ = corrupt(images, generator(), share=share)
    changed = int((damaged != images).flatten(1).any(1).sum())
    assert low <= changed <= high


@pytest.mark.parametrize("painter", PAINTERS)
def test_each_kind_of_defect_is_local_and_mostly_visible(good, painter):
    paint, source = getattr(module, painter), generator(5)
    shares = []
    for _ in range(30):
        changed = (paint(good[0], good, source).clamp(0, 1) - good[0]).abs().amax(0) > VISIBLE
        shares.append(changed.float().mean().item())
    visible = [share for share in shares if share > 0]
    assert len(visible) >= 10, f"{painter} paints nothing"
    assert max(shares) < 0.35, f"{painter} repaints the whole part"
    assert torch.isfinite(paint(good[0], good, source)).all()


def test_the_list_above_names_every_painter():
    found = {name for name, value in vars(module).items() if getattr(value, "__annotations__", {}).get("others")}
    assert found - {"_foreign_texture"} == set(PAINTERS)


def test_all_kinds_are_used(good, monkeypatch):
    used = set()
    for name in PAINTERS:
        original = getattr(module, name)

        def noted(*arguments, _name=name, _original=original):
            used.add(_name)
            return _original(*arguments)

        monkeypatch.setattr(module, name, noted)
    corrupt(good.repeat(8, 1, 1, 1), generator(), share=1.0)
    assert used == set(PAINTERS)


@pytest.mark.parametrize("shape", [(64, 96), (96, 64), (160, 160), (72, 72)])
def test_other_sizes_work(shape):
    images = torch.rand(8, 3, *shape, generator=generator())
    for seed in range(5):
        damaged, masks = corrupt(images, generator(seed), share=1.0)
        assert damaged.shape == images.shape and masks.shape == (8, 1, *shape)
        assert torch.isfinite(damaged).all()


def test_perlin_has_unit_range_and_finer_cells_give_finer_noise():
    coarse, fine = (perlin(64, 64, (cells, cells), generator()) for cells in (2, 16))
    for noise in (coarse, fine):
        assert noise.shape == (64, 64)
        assert -1.01 <= noise.min() < -0.2 and 0.2 < noise.max() <= 1.01
    assert fine.diff(dim=0).abs().mean() > 3 * coarse.diff(dim=0).abs().mean()


def test_perlin_is_zero_on_its_lattice():
    noise = perlin(64, 64, (4, 4), generator())
    assert noise[::16, ::16].abs().max().item() == pytest.approx(0, abs=1e-6)


def test_blobs_are_local_of_many_sizes_and_everywhere():
    source = generator()
    masks = torch.stack([blob_mask(64, 64, source) for _ in range(60)])
    assert masks.min() >= 0 and masks.max() <= 1
    areas = masks.mean((1, 2))
    assert areas.max() < 0.25
    assert areas.max() > 10 * areas[areas > 0].median() / 5
    seen = (masks > 0).float().amax(0)
    assert seen.mean() > 0.5, "blobs fall on a part of the image only"


def test_a_disturbance_changes_light_and_leaves_the_part():
    board = 0.3 + 0.3 * torch.kron(torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(4, 4), torch.ones(8, 8))
    boards = board.expand(20, 3, 64, 64)
    one, two, other = (disturb(boards, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert one.shape == boards.shape and 0 <= one.min() and one.max() <= 1
    change = one.mean((1, 2, 3)) / board.mean() - 1
    assert change.min() < -0.1 and change.max() > 0.1 and change.abs().max() < 0.35
    for disturbed in one:
        assert torch.corrcoef(torch.stack((board.flatten(), disturbed.mean(0).flatten())))[0, 1] > 0.8


def test_every_second_disturbance_was_a_jpeg_file():
    """Blocks of a colour pattern that JPEG halves: what is left of it tells the compressed images from the others."""
    checks = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    images = torch.stack((checks, 1 - checks, checks)).float().mul(0.4).add(0.3).expand(4, 3, 64, 64)
    left = [float((one[0] - one[1]).std()) for one in disturb(images, generator(3))]
    assert max(left[0], left[2]) < 0.5 * min(left[1], left[3])


def test_a_disturbance_leaves_its_input_alone(good):
    before = good.clone()
    disturb(good, generator())
    assert torch.equal(good, before)


def test_a_shadow_lies_over_each_corner_in_turn_and_nowhere_else(good):
    """Out of many images the deepest shadow reaches nearly 60% in the corner; the middle stays as it was."""
    white = torch.ones(200, 3, 64, 64)
    shaded = shade(white, generator())
    for corner, (row, column) in enumerate(((0, 0), (-1, 0), (0, -1), (-1, -1))):
        of_this, others = shaded[corner::4, 0, row, column], shaded[(corner + 1) % 4 :: 4, 0, row, column]
        assert 0.4 < of_this.min() < 0.5 and of_this.max() < 1 and (others == 1).all()
    assert (shaded[:, :, 22:42, 22:42] == 1).all()
    before = good.clone()
    assert (shade(good, generator()) <= good).all() and torch.equal(good, before)


@pytest.mark.parametrize("change", [lambda x: corrupt(x, generator(), share=1.0)[0], lambda x: disturb(x, generator())])
def test_what_a_camera_without_colours_saw_has_none_afterwards(good, change):
    """Damage in colour on gray photos would be told by its colour, which no real damage has there."""
    both = torch.cat((good[:6].mean(1, keepdim=True).expand(-1, 3, -1, -1), good[6:]))
    colour = (lambda x: (x.amax(1) - x.amin(1)).amax((1, 2)))(change(both))
    assert colour[:6].max() < 1e-5 and colour[6:].min() > 0.01
    assert not torch.allclose(change(both)[:6], both[:6], atol=0.01)


def test_a_turned_image_keeps_its_middle_and_says_where_it_ends():
    """A dot on a plate that is not square goes around the middle, at the distance that it had."""
    images = torch.zeros(40, 3, 64, 96)
    images[:, :, 30:34, 66:70] = 1  # 20 pixels to the right of the middle
    before = images.clone()
    turned, inside = turn(images, generator())
    row, column = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(96) - 47.5, indexing="ij")
    bright = turned[:, 0] * inside
    down, across = ((bright * axis).sum((1, 2)) / bright.sum((1, 2)) for axis in (row, column))
    assert torch.allclose(torch.hypot(down, across), torch.tensor(20.0), atol=0.5)
    assert down.min() < -19 and down.max() > 19 and across.min() < -19 and across.max() > 19
    assert inside[:, 20:44, 36:60].all() and 0.5 < inside.float().mean() < 0.95
    assert torch.equal(images, before)
