"""The stages of an LSTM: layer, direction, time step, gate."""
