"""Known mistakes of ports, each tried where a stage is wrong of itself.

A mistake is words and the reference with that mistake in it; it is named only if that gives the
candidate's own numbers. `cell` and `sequence` are of an LSTM, as functions of its step and of its
loop over time; `attention`, `layers` and `wiring` are of any network, as functions of PyTorch that
do something else (`calls`), and `functions` is all of these; `update` are of optimizers, `arrays`
of parameters and of any array. Those that do not fit the sizes at hand raise `ValueError`.
Adding a mistake is adding a row to a table.
"""
