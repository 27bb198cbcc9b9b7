"""How does a request come in and an answer go out: HTTP and command line."""
