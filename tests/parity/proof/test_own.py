"""`parity CHECKPOINT --reference … --candidate … --input …`: a user's port, as CI would run it."""

import json
import sys
import textwrap

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import parity
from parity import cli

PORT = """
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx


class Theirs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Linear(3, 4)
        self.last = torch.nn.Linear(4, 2)
        self.spare = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.last(torch.tanh(self.embed(x)))


class Ours(nnx.Module):
    activation = staticmethod(jnp.tanh)

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Linear(3, 4, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.activation(self.embed(x)))


class Wrong(Ours):
    activation = staticmethod(jax.nn.soft_sign)


def from_state():
    def forward(state, x):
        y = jnp.tanh(x @ state["embed.weight"].T + state["embed.bias"][None])
        return y @ state["last.weight"].T + state["last.bias"][None]

    return forward


class TheirTokens(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(7, 2)

    def forward(self, tokens):
        return self.table(tokens)


class OurTokens(nnx.Module):
    def __init__(self):
        self.table = nnx.Embed(7, 2, rngs=nnx.Rngs(0))

    def __call__(self, tokens):
        return self.table(tokens)


def raises():
    raise RuntimeError("no luck")


def exits():
    raise SystemExit(0)


def exits_when_called():
    return lambda state, x: exits()
"""
NAMES = ("--names", "head=last", "--ignore", "spare")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a user's port and its checkpoint, which is the current one."""
    (tmp_path / "port.py").write_text(textwrap.dedent(PORT))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("port", None)
    monkeypatch.syspath_prepend(tmp_path)
    import port

    torch.save(port.Theirs().state_dict(), tmp_path / "model.pt")
    torch.save(port.TheirTokens().state_dict(), tmp_path / "tokens.pt")
    yield tmp_path
    sys.modules.pop("port", None)


def run(*arguments, theirs="port:Theirs", ours="port:Ours", variants=()):
    models = ("--reference", theirs, "--candidate", ours)
    sizes = ("--seeds", "1", "--steps", "1")
    return cli.main([*arguments, *models, *sizes, "--variants", *variants])


def test_a_right_port_exits_0_and_the_report_is_written(project, quickly_compiled, capsys):
    assert run("model.pt", *NAMES, "--input", "5x3") == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("PASSED: ")
    assert all(line.startswith("… model.pt") for line in captured.err.splitlines())  # progress
    report = json.loads((project / "parity-report" / "report.json").read_text())
    (case,) = report["cases"]
    assert (case["what"], case["which"]) == ("model.pt", "seed 0")
    assert case["facts"]["inputs"]["x"] == [5, 3]
    assert {"sgd", "adam"} <= {row["optimizer"] for row in report["rows"]}


def test_a_wrong_port_exits_1_and_the_stage_is_named(project, quickly_compiled, capsys):
    assert run("model.pt", *NAMES, "--input", "5x3", ours="port:Wrong") == 1
    out = capsys.readouterr().out
    assert out.startswith("FAILED: ")
    assert "first last.input (model.pt: seed 0, first wrong stage, forward" in out


def test_a_known_difference_exits_0_and_is_printed(project, quickly_compiled, capsys):
    known = ("--known", "*=the port is halved = a = b")
    assert run("model.pt", *NAMES, "--input", "5x3", *known, ours="port:Wrong") == 0
    assert "known difference '*', the port is halved = a = b: " in capsys.readouterr().out


def test_a_file_gives_inputs_by_name_and_the_target(project, quickly_compiled):
    rng = np.random.default_rng(0)
    np.savez("batch.npz", features=rng.standard_normal((2, 3)), target=rng.standard_normal((2, 2)))
    assert run("model.pt", *NAMES, "--input", "batch.npz") == 0
    report = json.loads((project / "parity-report" / "report.json").read_text())
    (case,) = report["cases"]
    assert case["facts"]["inputs"] == {"features": [2, 3], "target": [2, 2]}


def test_whole_numbers_and_functions_of_a_state_dict_are_taken(project, quickly_compiled):
    tokens = {"theirs": "port:TheirTokens", "ours": "port:OurTokens"}
    assert run("tokens.pt", "--input", "2x3:7", **tokens) == 0
    assert run("model.pt", "--ignore", "spare", "--input", "5x3", ours="port:from_state") == 0


def test_loud_and_quiet_inputs_are_checked_unless_other_variants_are_named(
    project, quickly_compiled
):
    models = ("--reference", "port:Theirs", "--candidate", "port:from_state", "--ignore", "spare")
    sizes = ("--seeds", "2", "--steps", "1")
    assert cli.main(["model.pt", *models, "--input", "4x3", *sizes]) == 0
    report = json.loads((project / "parity-report" / "report.json").read_text())
    sizes = {
        row["case"]["which"]: row["scale"]
        for row in report["rows"]
        if (row["check"], row["name"]) == ("inputs", "x")
    }
    first = sizes["seed 0"]
    assert sizes == {
        "seed 0": first,
        "seed 0, loud": pytest.approx(30 * first),
        "seed 0, quiet": pytest.approx(first / 1000),
        "seed 1": sizes["seed 1"],
    }
    assert sizes["seed 1"] != first


MISTAKES = {
    "no input": (("model.pt",), {}, "--input"),
    "no shape": (("model.pt", "--input", "4,3"), {}, "4x11x16"),
    "an input of 10¹⁸ numbers": (
        ("model.pt", *NAMES, "--input", "1000000000x1000000000"), {},
        "at most 1,073,741,824 random numbers in all, got 1,000,000,000,000,000,000 for each of",
    ),
    "an input of endless sizes": (("model.pt", "--input", "9" * 5_000), {}, "(5,000 characters)"),
    "another shape": (("model.pt", *NAMES, "--input", "4x9"), {}, "float32[4, 9]"),
    "no file": (("model.pt", "--input", "none.npz"), {}, "none.npz"),
    "no arrays": (("model.pt", "--input", "text.npz"), {}, "text.npz"),
    "no checkpoint": (("none.pt", "--input", "4x3"), {}, "none.pt"),
    "another checkpoint": (("tokens.pt", "--input", "4x3"), {}, "--reference does not load it"),
    "a wrapped checkpoint": (("wrapped.pt", "--input", "4x3"), {}, "flax-bilstm convert"),
    "names": (("model.pt", "--names", "head", "--input", "4x3"), {}, "FLAX=TORCH"),
    "known": (("model.pt", *NAMES, "--input", "4x3", "--known", "last"), {}, "PATTERN=REASON"),
    "no names": (("model.pt", "--input", "4x3"), {}, "last.weight"),
    "no function": (("model.pt", "--input", "4x3"), {"ours": "port"}, "package.module:function"),
    "no such function": (("model.pt", "--input", "4x3"), {"ours": "port:None_"}, "port:None_"),
    "no module": (("model.pt", "--input", "4x3"), {"theirs": "portt:Theirs"}, "portt"),
    "it raises": (("model.pt", "--input", "4x3"), {"theirs": "port:raises"}, "no luck"),
    "it exits": (("model.pt", "--input", "4x3"), {"theirs": "port:exits"}, "exit(0)"),
    "it exits later": (
        ("model.pt", "--ignore", "spare", "--input", "4x3"), {"ours": "port:exits_when_called"},
        "exit(0)",
    ),
    "not a module": (("model.pt", "--input", "4x3"), {"theirs": "port:Ours"}, "torch.nn"),
    "both of torch": (("model.pt", "--input", "4x3"), {"ours": "port:Theirs"}, "nnx.Module"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_exits_2_with_one_message(mistake, project, capsys):
    (project / "text.npz").write_text("text")
    torch.save({"state_dict": torch.load("model.pt"), "epoch": 3}, "wrapped.pt")
    arguments, models, words = MISTAKES[mistake]
    assert run(*arguments, **models) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("parity: ")
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert not (project / "parity-report").exists()


@pytest.mark.parametrize("given", [("--input", "4x3"), ("--reference", "a:b"), ("--ignore", "x")])
def test_options_of_a_port_need_each_other(given, project, capsys):
    assert cli.main(["model.pt", *given]) == 2
    assert "--candidate" in capsys.readouterr().err


def test_what_a_function_does_not_use_it_does_not_train(project, quickly_compiled):
    """JAX has a gradient of zero where PyTorch has none: weight decay would tell them apart."""
    import port

    x = np.full((2, 3), 0.5, np.float32)
    models = port.Theirs(), port.from_state()
    parity.check(*models, x, dtypes=["float64"], training_steps=2).assert_passed()
