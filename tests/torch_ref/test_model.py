"""The network is the notebook's, down to keys, weights and print; "general" is Luong's score."""

import pytest

torch = pytest.importorskip("torch")

import torch_ref

SIZES = dict(input_dim=7, hidden_dim=5, output_dim=3)


def test_checkpoints_of_the_notebook_load_and_go_back(notebook, tmp_path):
    theirs, ours = notebook.BiLSTMWithAttention(**SIZES), torch_ref.BiLSTMWithAttention(**SIZES)
    x = torch.randn(4, 6, 7)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pt")
    ours.load_state_dict(torch.load(tmp_path / "theirs.pt", weights_only=True), strict=True)
    assert torch.equal(ours(x), theirs(x))

    torch.save(torch_ref.BiLSTMWithAttention(**SIZES).state_dict(), tmp_path / "ours.pt")
    state_dict = torch.load(tmp_path / "ours.pt", weights_only=True)
    ours.load_state_dict(state_dict, strict=True)
    theirs.load_state_dict(state_dict, strict=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert torch.equal(ours(x), theirs(x))


def test_one_seed_gives_the_notebooks_weights(notebook):
    models = []
    for classes in (notebook, torch_ref):
        torch.manual_seed(0)
        models.append(classes.BiLSTMWithAttention(**SIZES).state_dict())
    theirs, ours = models
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_prints_as_in_the_notebook(notebook):
    sizes = dict(input_dim=128, hidden_dim=64, output_dim=1)
    assert str(torch_ref.BiLSTMWithAttention(**sizes)) == notebook.PRINTED
    assert str(notebook.BiLSTMWithAttention(**sizes)) == notebook.PRINTED


@pytest.mark.parametrize(
    ("score", "unused"),
    [
        ("dot", ["attention.attn.weight", "attention.attn.bias"]),
        ("general", ["attention.attn.bias"]),
    ],
)
def test_unused_parameters_have_no_gradient_and_never_move(score, unused):
    model = torch_ref.BiLSTMWithAttention(**SIZES, score=score)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    model(torch.randn(4, 6, 7)).square().sum().backward()
    optimizer.step()
    grads = {name: value.grad for name, value in model.named_parameters()}
    assert [name for name, grad in grads.items() if grad is None] == unused
    after = model.state_dict()
    assert [name for name in after if torch.equal(after[name], before[name])] == unused


def test_general_score_is_query_times_w_times_key():
    attention = torch_ref.Attention(3, score="general").double()
    hidden = torch.randn(1, 4, 3, dtype=torch.float64)
    W = attention.attn.weight
    scores = torch.stack(
        [torch.stack([query @ (W @ key) for key in hidden[0]]) for query in hidden[0]]
    )
    expected = torch.softmax(scores, dim=1) @ hidden[0]
    torch.testing.assert_close(attention(hidden)[0], expected, rtol=1e-13, atol=1e-13)


def test_unknown_score():
    with pytest.raises(ValueError, match=r"score must be one of \('dot', 'general'\), got 'add'"):
        torch_ref.BiLSTMWithAttention(**SIZES, score="add")
