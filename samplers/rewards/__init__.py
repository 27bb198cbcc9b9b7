"""Rewards, one a file, found by name: `@reward("name")`."""
