"""`flax-bilstm convert --into` a network of the user's own, with its optimizer."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flax_bilstm import checkpoints
from flax_bilstm.checkpoints import orbax_folder
from flax_bilstm.cli import BAD_INPUT, GOOD

torch = pytest.importorskip("torch")

from .command_line import run

# Bits, words and files are judged here, not how programs round.
pytestmark = pytest.mark.usefixtures("quickly_compiled")


class Larger(torch.nn.Module):
    """A network of the user's own, with a buffer that is no parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.LSTM(3, 2, batch_first=True)
        self.classifier = torch.nn.Linear(2, 3)
        self.criterion = torch.nn.CrossEntropyLoss(weight=torch.ones(3))

    def forward(self, x: Any) -> Any:
        return self.classifier(self.encoder(x)[0][:, -1])


PORT = """
from flax import nnx
import flax_bilstm as fb

class Port(nnx.Module):
    def __init__(self, rngs):
        self.encoder = fb.LSTM(3, 2, rngs=rngs)
        self.head = nnx.Linear(2, 3, rngs=rngs)

def make():
    return Port(nnx.Rngs(0))
"""


@pytest.fixture
def make_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """(name, source): a module that `--into name:function` imports, for the length of a test."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)

    return make


@pytest.fixture
def users_port(make_module: Callable[[str, str], None]) -> None:
    """`--into users_port:make`."""
    make_module("users_port", PORT)


def larger_checkpoint(path: Path, *, named: bool) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = Larger()
    given = model.named_parameters() if named else model.parameters()
    optimizer = torch.optim.Adam(given, 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(2, 5, 3)).square().mean().backward()
        optimizer.step()
    torch.save({"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
    return model, optimizer


@pytest.mark.parametrize("named", [True, False])
def test_a_network_of_the_users_own_with_its_optimizer(
    named: bool, users_port: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, optimizer = larger_checkpoint(tmp_path / "run.pt", named=named)
    target = tmp_path / "run.orbax"
    options = ("--into", "users_port:make", "--names", "head=classifier", "--ignore", "criterion.*")
    assert run("convert", tmp_path / "run.pt", target, *options) == GOOD
    printed = capsys.readouterr().out
    assert "left out: criterion.weight" in printed
    assert "no forward pass was compared" in printed
    tree = orbax_folder.read(target).tree
    moment = tree["optimizer"]["opt_state"]["0"]["mu"]["head"]["kernel"]["value"]
    expected = optimizer.state[model.classifier.weight]["exp_avg"].numpy()
    np.testing.assert_array_equal(moment.T, expected)


@pytest.mark.parametrize("ending", [".pt", ".safetensors", ".orbax"])
def test_a_network_of_the_users_own_to_every_format(
    ending: str, users_port: None, tmp_path: Path
) -> None:
    model, _ = larger_checkpoint(tmp_path / "run.pt", named=True)
    target = tmp_path / f"port{ending}"
    options = ("--into", "users_port:make", "--names", "head=classifier", "--ignore", "criterion.*")
    assert run("convert", tmp_path / "run.pt", target, *options) == GOOD
    names = {name for name in model.state_dict() if not name.startswith("criterion")}
    assert ending == ".orbax" or checkpoints.read(target).tensors.keys() == names


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--into", "users_port:make"), 'likely: names={"head": "classifier"}'),
        (("--into", "users_port:nothing"), "raised AttributeError"),
        (("--into", "no_such_module:make"), "raised ModuleNotFoundError"),
        (("--into", "users_port:fb"), "raised TypeError"),
        (("--into", "users_port:make", "--names", "head"), "expected FLAX=TORCH, got 'head'"),
        ((), "pass --into"),
    ],
)
def test_what_the_user_passes_for_a_network_of_their_own(
    options: tuple[str, ...],
    says: str,
    users_port: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    larger_checkpoint(tmp_path / "run.pt", named=False)
    assert run("convert", tmp_path / "run.pt", tmp_path / "run.orbax", *options) == BAD_INPUT
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run.orbax").exists()


TIED_PORT = """
import jax.numpy as jnp
from flax import nnx
import flax_bilstm as fb

class Port(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(7, 3, rngs=rngs)
        self.lstm = fb.LSTM(3, 3, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(7))
        self.ids = nnx.Variable(jnp.zeros(2, jnp.int32))

def make():
    return Port(nnx.Rngs(0))
"""


def tied() -> Any:
    """A language model: tied weights, a raw parameter, a buffer."""
    model = torch.nn.ModuleDict(
        {
            "encoder": torch.nn.Embedding(7, 3),
            "lstm": torch.nn.LSTM(3, 3, batch_first=True),
            "decoder": torch.nn.Linear(3, 7, bias=False),
        }
    )
    model["decoder"].weight = model["encoder"].weight
    model.bias = torch.nn.Parameter(torch.ones(7))
    model.register_buffer("ids", torch.tensor([3, 4]))
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_groups_ties_raw_parameters_and_buffers(
    dtype: Any, make_module: Callable[[str, str], None], tmp_path: Path
) -> None:
    """Without a dtype, `jnp.zeros` has what JAX gives it where 64 bits are not asked for."""
    torch.manual_seed(0)
    model = tied().to(dtype)
    named = list(model.named_parameters())
    groups = [
        {"params": [(n, p) for n, p in named if p.ndim > 1], "weight_decay": 0.1},
        {"params": [(n, p) for n, p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    hidden = model["lstm"](model["encoder"](torch.arange(7)[None]))[0]
    ((model["decoder"](hidden) + model.bias) ** 2).sum().backward()
    optimizer.step()
    content = {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}
    torch.save(content, tmp_path / "run.ckpt")
    port = TIED_PORT
    if dtype is torch.float64:
        port = port.replace("rngs=rngs", "rngs=rngs, param_dtype=jnp.float64").replace(
            "int32", "int64"
        )
    make_module("tied_port", port)
    options = ("--into", "tied_port:make", "--names", "embed=encoder", "--names", "embed=decoder")
    assert run("convert", tmp_path / "run.ckpt", tmp_path / "run.orbax", *options) == GOOD
    tree = orbax_folder.read(tmp_path / "run.orbax").tree
    for path, expected in {"embed.embedding": model["encoder"].weight, "bias": model.bias}.items():
        np.testing.assert_array_equal(tree["model"][path], expected.detach().numpy(), strict=True)
    moments = tree["optimizer"]["opt_state"]["inner_states"]["group 1"]["inner_state"]["0"]
    expected = optimizer.state[model.bias]["exp_avg"].numpy()
    np.testing.assert_array_equal(moments["mu"]["bias"]["value"], expected, strict=True)


@pytest.mark.parametrize("rate", ["0.5", "port_schedule:schedule"])
def test_what_the_state_does_not_tell_is_passed(
    rate: str,
    users_port: None,
    make_module: Callable[[str, str], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Groups without names, and a scheduler; the optimizer was given a submodule's parameters."""
    torch.manual_seed(0)
    model = Larger()
    run_of = torch.nn.ModuleDict({"net": model})
    named = [(n, p) for n, p in model.named_parameters() if "criterion" not in n]
    named = [pair for pair in named if pair[1].ndim > 1] + [x for x in named if x[1].ndim <= 1]
    matrices = sum(p.ndim > 1 for _, p in named)
    parameters = [p for _, p in named]
    groups = [
        {"params": parameters[:matrices], "weight_decay": 0.1},
        {"params": parameters[matrices:], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    model(torch.randn(2, 5, 3)).square().mean().backward()
    optimizer.step()
    scheduler.step()
    content = {"state_dict": run_of.state_dict(), "optimizer_states": [optimizer.state_dict()]}
    torch.save(content, tmp_path / "run.ckpt")
    make_module("port_schedule", "schedule = lambda step: 0.5\n")
    (tmp_path / "names.txt").write_text("\n".join(name for name, _ in named))
    into = ("--into", "users_port:make", "--prefix", "net.", "--names", "head=classifier")
    command = ("convert", tmp_path / "run.ckpt", tmp_path / "a.orbax", *into)
    command = (*command, "--ignore", "criterion.*")
    assert run(*command) == BAD_INPUT
    assert "--parameters" in capsys.readouterr().err
    command = (*command, "--parameters", tmp_path / "names.txt")
    assert run(*command) == BAD_INPUT
    assert "--learning-rate" in capsys.readouterr().err
    assert run(*command, "--learning-rate", rate) == GOOD
    assert f"learning_rate={rate}" in capsys.readouterr().out
    states = orbax_folder.read(tmp_path / "a.orbax").tree["optimizer"]["opt_state"]["inner_states"]
    moment = states["group 0"]["inner_state"]["0"]["mu"]["head"]["kernel"]["value"]
    expected = optimizer.state[model.classifier.weight]["exp_avg"].numpy()
    np.testing.assert_array_equal(moment.T, expected)
