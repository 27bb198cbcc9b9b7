"""Rewards that need processes, a database or torch, one a file, found by name: `@reward("name")`."""
