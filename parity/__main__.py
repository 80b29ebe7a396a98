"""`python -m parity` is the command `parity`."""

from parity_entry.command import run

if __name__ == "__main__":
    run()
