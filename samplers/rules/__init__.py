"""Rules of selection among judged candidates, one a file, found by name: `@rule("name")`."""
