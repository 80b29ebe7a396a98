"""docs/comparison.md says of the libraries that are installed here what is measured of them."""

import pytest

pytest.importorskip("torch")  # the truth of every entry

from tools.comparison import __main__ as comparison

NAMES = ("torch.nn.LSTM", "flax.nnx.RNN", "flax_bilstm.LSTM")


@pytest.mark.usefixtures("quickly_compiled")
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch.func's own
def test_the_table_holds() -> None:
    written = comparison.written()
    header = [cell.split(" ")[0] for cell in written[0]]
    columns = [0, *(header.index(name) for name in NAMES)]
    measured = comparison.measure(NAMES)
    # The versions in the header are those of the day; the entries must hold for today's.
    assert [[row[i] for i in columns] for row in written[1:]] == measured[1:]
