"""Selecting, copying and restoring parameters; losses that repeat bit for bit."""

from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from erase.core.params import (
    FixedLoss,
    as_list,
    restore,
    select_parameters,
    snapshot,
    still_buffers,
)
from erase.errors import InputError


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    )


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Dropout(0.5))


def loss_of(net: nn.Module) -> Callable[[], Tensor]:
    x = torch.randn(10, 6)
    return lambda: net(x).square().mean()


def buffers(net: nn.Module) -> list[Tensor]:
    return [b.clone() for b in net.buffers()]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize(
    ("spec", "belongs"),
    [
        ("full", lambda name: True),
        ("xattn", lambda name: ".attn2." in name),
        (
            "noxattn",
            lambda name: (
                ".attn2." not in name
                and not name.startswith(("conv_norm_out", "conv_out", "time_embedding"))
            ),
        ),
        ("selfattn", lambda name: ".attn1." in name),
        (
            r"attn2\.to_[kv]\.weight$",
            lambda name: name.endswith(("n2.to_k.weight", "n2.to_v.weight")),
        ),
    ],
)
def test_selection(unet: nn.Module, spec: str, belongs: Callable[[str], bool]) -> None:
    chosen = select_parameters(unet, spec)
    assert list(chosen) == [n for n, _ in unet.named_parameters() if belongs(n)]
    assert chosen
    for name, p in unet.named_parameters():
        assert p.requires_grad == (name in chosen)
        if name in chosen:
            assert chosen[name] is p


def test_cross_attention_and_the_rest_leave_the_output_and_the_timestep(unet: nn.Module) -> None:
    parts = set(select_parameters(unet, "xattn")), set(select_parameters(unet, "noxattn"))
    assert not parts[0] & parts[1]
    rest = set(select_parameters(unet, "full")) - parts[0] - parts[1]
    assert {name.partition(".")[0] for name in rest} == {
        *("conv_norm_out", "conv_out", "time_embedding")
    }


@pytest.mark.parametrize(("spec", "says"), [("no_such_layer", "matches no"), ("([", "not a valid")])
def test_a_useless_spec_is_refused_and_changes_nothing(
    unet: nn.Module, spec: str, says: str
) -> None:
    before = list(select_parameters(unet, "xattn"))
    with pytest.raises(InputError, match=says) as caught:
        select_parameters(unet, spec)
    assert "xattn" in caught.value.remedy
    assert [n for n, p in unet.named_parameters() if p.requires_grad] == before


def test_names_match_by_whole_components() -> None:
    odd = nn.ModuleDict({"my_attn20": nn.Linear(2, 2), "attn2": nn.Linear(2, 2)})
    assert list(select_parameters(odd, "xattn")) == ["attn2.weight", "attn2.bias"]


def test_restore_is_bit_exact_and_in_place(net: nn.Module) -> None:
    chosen = select_parameters(net, "full")
    saved = snapshot(chosen)
    originals = [p.detach().clone() for p in chosen.values()]
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p))
    assert not same(as_list(chosen), originals)
    assert same(saved, originals)  # a copy, not a view
    restore(chosen, saved)
    assert same(as_list(net.parameters()), originals)
    assert all(p.requires_grad and p.is_leaf for p in net.parameters())


def test_restore_refuses_another_models_snapshot(net: nn.Module) -> None:
    before = snapshot(net.parameters())
    with pytest.raises(InputError, match="does not fit"):
        restore(net.parameters(), before[:-1])
    with pytest.raises(InputError, match="does not fit"):
        restore(net.parameters(), [*before[:-1], torch.zeros(3)])
    assert same(as_list(net.parameters()), before)


def test_still_buffers_leaves_output_and_statistics(net: nn.Module) -> None:
    x, before = torch.randn(5, 6), buffers(net)
    with still_buffers(net):
        torch.manual_seed(1)
        inside = net(x)
    assert same(buffers(net), before)
    torch.manual_seed(1)
    assert torch.equal(net(x), inside)
    assert not same(buffers(net), before)


def test_still_buffers_comes_back_after_an_error_and_spares_eval_layers(net: nn.Module) -> None:
    with pytest.raises(RuntimeError, match="boom"), still_buffers(net):
        raise RuntimeError("boom")
    assert net.get_submodule("1").track_running_stats
    net.eval()
    x = torch.randn(5, 6)
    outside = net(x)
    with still_buffers(net):
        assert torch.equal(net(x), outside)


def test_fixed_loss_repeats_to_the_bit_and_moves_buffers_once(net: nn.Module) -> None:
    loss, start = FixedLoss(net, loss_of(net), seed=3), buffers(net)
    first = loss()
    once = buffers(net)
    torch.rand(7)  # what others draw in between does not matter
    assert torch.equal(loss(), first)
    assert torch.equal(loss(), first)
    assert not same(once, start)
    assert same(buffers(net), once)
    assert int(net.state_dict()["1.num_batches_tracked"]) == 1


def test_fixed_loss_masks_depend_on_the_seed_alone(net: nn.Module) -> None:
    fn = loss_of(net)
    values = {seed: FixedLoss(net, fn, seed)() for seed in (0, 1, 2)}
    assert len({float(v.detach()) for v in values.values()}) == 3
    assert torch.equal(FixedLoss(net, fn, 1)(), values[1])


def test_fixed_loss_can_leave_buffers_alone(net: nn.Module) -> None:
    start, fn = buffers(net), loss_of(net)
    quiet = FixedLoss(net, fn, 3, moves_buffers=False)
    value = quiet()
    assert same(buffers(net), start)
    assert torch.equal(FixedLoss(net, fn, 3)(), value)


def test_fixed_loss_leaves_the_global_random_state(net: nn.Module) -> None:
    fn = loss_of(net)
    state = torch.get_rng_state()
    FixedLoss(net, fn, seed=3)()
    assert torch.equal(torch.get_rng_state(), state)

    def fail() -> Tensor:
        torch.rand(3)
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        FixedLoss(net, fail, seed=3)()
    assert torch.equal(torch.get_rng_state(), state)


def test_fixed_loss_follows_the_live_parameters(net: nn.Module) -> None:
    loss = FixedLoss(net, loss_of(net), seed=3)
    before = float(loss().detach())
    with torch.no_grad():
        net.get_parameter("1.weight").mul_(2.0)
    assert float(loss().detach()) != before


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_fixed_loss_refuses_a_seed_out_of_range(net: nn.Module, seed: int) -> None:
    with pytest.raises(InputError, match="out of range"):
        FixedLoss(net, loss_of(net), seed)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fixed_loss_on_cuda() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5)).cuda()
    x = torch.randn(10, 6).cuda()
    loss, state = FixedLoss(net, lambda: net(x).sum(), seed=3), torch.cuda.get_rng_state()
    assert torch.equal(loss(), loss())
    assert torch.equal(torch.cuda.get_rng_state(), state)
