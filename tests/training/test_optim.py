import pytest
import torch
from torch import nn

from kaleido_core.errors import ConfigError
from training.config import OptimizerConfig, ScheduleConfig
from training.optim import Average, clip, decays, learning_rate, make_optimizer

OFFICIAL = ScheduleConfig("official", 100)


def test_weights_decay_in_the_official_groups(golden):
    groups = golden.info("training")["optimizer_groups"]
    parameters = dict(golden.dit("dit_small").named_parameters())
    for name, expected in (("weight_decay", True), ("no_weight_decay", False)):
        assert [key for key in sorted(parameters) if decays(key, parameters[key], "official") is expected] == sorted(
            groups[name]
        )
    optimizer = make_optimizer(parameters, OptimizerConfig(weight_decay=0.3))
    assert [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups] == [(53, 0.3), (43, 0)]


def test_the_usual_rule_pulls_at_matrices_only(golden):
    parameters = golden.dit("dit_small").named_parameters()
    pulled = {name for name, parameter in parameters if decays(name, parameter, "matrices")}
    assert "blocks.0.self_attn.q.weight" in pulled and "patch_embedding.weight" in pulled
    assert not any("norm" in name or "modulation" in name or "bias" in name for name in pulled)


def test_the_rate_follows_the_official_curve(golden):
    expected = golden.tensors("training")["lr_schedule"].tolist()
    found = [learning_rate(step, 5000, 5e-6, OFFICIAL) for step in range(1, len(expected) + 1)]
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "middle", "last"), [("constant", 1.0, 1.0), ("linear", 0.55, 0.1), ("cosine", 0.55, 0.1)]
)
def test_the_rate_rises_then_falls_to_its_share(kind, middle, last):
    schedule = ScheduleConfig("linear", 10, kind, 0.1)
    rates = [learning_rate(step, 110, 2.0, schedule) / 2 for step in range(1, 111)]
    assert rates[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert rates[59] == pytest.approx(middle) and rates[-1] == pytest.approx(last)
    assert all(a >= b for a, b in zip(rates[9:], rates[10:], strict=False))


def test_gradients_are_scaled_to_the_global_norm():
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert clip(parameters, 0).item() == 5 and parameters[1].grad.item() == 4
    assert clip(parameters, 1).item() == 5 and parameters[1].grad.item() == pytest.approx(0.8)


@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "adafactor"])
@torch.compiler.set_stance("force_eager")  # compiling takes a minute
def test_every_optimizer_learns(name):
    if name == "adamw8bit":
        pytest.importorskip("torchao")
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 64), torch.randn(64, 64)
    optimizer = make_optimizer(dict(layer.named_parameters()), OptimizerConfig(name, lr=1e-2))
    losses = []
    for _ in range(20):
        loss = (layer(x) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < (0.98 if name == "adafactor" else 0.6) * losses[0]  # its rate is relative to the weights


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchao.optim", None)
    with pytest.raises(ConfigError, match="pip install torchao"):
        make_optimizer({"a": nn.Parameter(torch.zeros(1))}, OptimizerConfig("adamw8bit"))


def test_an_average_follows_slowly_and_can_take_the_weights_place():
    weight = nn.Parameter(torch.zeros(1))
    average = Average({"weight": weight}, 0.9)
    with torch.no_grad():
        weight.fill_(1.0)
    average.update(1000)
    with average.in_place():
        assert weight.item() == pytest.approx(0.1)
    assert weight.item() == 1 and average.values["weight"].item() == pytest.approx(0.1)
    assert not Average({"weight": weight}, 0.0).values
