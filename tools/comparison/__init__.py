"""The measured table in docs/comparison.md: this LSTM beside those of other libraries."""
