"""Steering while decoding: what text carries of an unwanted attribute, and how the law of the next token is changed by it."""
