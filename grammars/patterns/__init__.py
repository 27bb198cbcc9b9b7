"""The inside of `grammars/pattern.py`: a folder of its own so that the `regex` module is loaded only when a pattern is used."""
