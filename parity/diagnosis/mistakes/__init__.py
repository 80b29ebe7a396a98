"""Known mistakes of ports, each tried on a faulty stage.

A mistake consists of words and the reference with that mistake; it is named only if it reproduces
the candidate's numbers. `cell` and `sequence` are mistakes in an LSTM, changes of its step and of
its loop over time. `attention`, `layers` and `wiring` are mistakes in any network, changes of calls
of PyTorch's functions (`calls`); `functions` combines these three. `update` are mistakes in
optimizers, `arrays` in parameters and in any array. A mistake that does not apply to arrays of some
size raises `ValueError`. To add a mistake, add a row to a table.
"""
