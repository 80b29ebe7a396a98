"""Known differences: acknowledged by name, shown, and nothing else hidden."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
import parity
from parity import Report
from parity.place import Place
from parity.render import html, text
from parity.selftest.run import as_users_write_it

EPSILON = "LayerNorm of our Flax code has epsilon 1e-6, of PyTorch 1e-5"
KNOWN = {"local/norm": EPSILON, "forward/norm": EPSILON, "forward/out*": EPSILON}


class Theirs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.output_layer = torch.nn.LayerNorm(3), torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.output_layer(self.norm(x))


class Ours(nnx.Module):
    def __init__(self, factor=1.0, epsilon=1e-6):
        rngs = nnx.Rngs(0)
        self.norm = nnx.LayerNorm(3, epsilon=epsilon, rngs=rngs)
        self.output_layer = nnx.Linear(3, 2, rngs=rngs)
        self.factor = factor

    def __call__(self, x):
        return self.factor * self.output_layer(self.norm(x))


def check(known, factor=1.0):
    torch.manual_seed(0)
    theirs, ours = Theirs(), Ours(factor)
    fb.load_state_dict(ours, theirs.state_dict())
    x = np.random.default_rng(0).standard_normal((4, 3))
    with as_users_write_it():
        return parity.check(theirs, ours, x, known=known, training_steps=0, dtypes=["float64"])


@pytest.fixture(scope="module")
def report():
    """Everything that follows from the other epsilon is acknowledged."""
    return check({**KNOWN, "gradients/*": EPSILON})


def test_a_known_difference_fails_nothing_and_is_shown(report):
    report.assert_passed()
    rows = {row.name: row for row in report.rows if row.check == "local"}
    assert rows["norm"].verdict == "known difference"
    assert not rows["norm"].passed
    assert rows["output_layer"].verdict == "ok"
    words = f"known difference 'local/norm', {EPSILON}: 1 of 1 rows differ"
    assert words in str(report)
    assert f"known difference {EPSILON}; elements beyond" in text.markdown(report)
    assert f"local/norm&#x27;, {EPSILON}" in html.page(report)
    assert not report.first_divergence


def test_json_has_what_is_known(report):
    content = report.to_json()
    assert Report.from_json(content) == report
    assert '"known": "LayerNorm of our' in content
    assert '"differing": 1' in content


def test_without_the_words_it_fails_and_is_located():
    report = check(None)
    assert not report.passed
    assert report.first_divergence.name == "norm"


@pytest.mark.parametrize("known", [KNOWN, {**KNOWN, "gradients/*": EPSILON}])
def test_a_second_fault_is_not_hidden_and_is_the_one_that_is_located(known):
    """The output is doubled, too: all gradients are wrong and known, as is the output itself."""
    report = check(known, factor=2.0)
    assert not report.passed
    first = report.first_divergence
    assert (first.name, first.explains) == ("output", True)
    assert "2 times" in first.note
    assert [r.name for r in report.failing if r.check == "local" and not r.explains] == ["output"]


def test_what_is_not_acknowledged_fails():
    report = check(KNOWN)
    assert {row.check for row in report.failing} == {"gradients"}


def test_a_known_difference_that_does_not_occur_is_said(report):
    stale = check({**KNOWN, "gradients/*": EPSILON, "local/output*": "it was once halved"})
    stale.assert_passed()
    words = "known difference 'local/output*', it was once halved: it did not occur in 3 rows"
    assert words in str(stale)
    assert words not in str(report)


def test_a_pattern_of_no_row_fails():
    report = check({**KNOWN, "gradients/*": EPSILON, "local/nrm": "misspelt"})
    assert not report.passed
    assert text.verdict(report).startswith("FAILED: known difference 'local/nrm', misspelt: no row")


@pytest.mark.parametrize(
    ("factor", "words"),
    [(np.nan, "non-finite"), ("two", "the candidate raises TypeError")],
)
def test_what_is_not_finite_or_raises_is_never_known(factor, words):
    report = check({"*": "whatever"}, factor)
    assert not report.passed
    assert words in report.first_divergence.note


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("norm[1]", True),  # the name itself, though [1] means "1" in a pattern
        ("norm*", True),
        ("local/norm*", True),
        ("*/norm[[]1]", True),
        ("forward/norm[1]", False),
        ("norm", False),
        ("local", False),
    ],
)
def test_a_pattern_is_that_of_the_name_or_of_check_and_name(pattern, matches):
    assert Place(check="local", name="norm[1]").matches(pattern) is matches
    located = Place(check="gradients", name="norm[1]", explains=True)
    assert located.matches(pattern) is matches


@pytest.mark.parametrize("reason", ["", None])
def test_a_difference_without_a_reason_is_refused(reason):
    with pytest.raises(ValueError, match="known: expected words on why 'norm' differs, got"):
        check({"norm": reason})
