"""The JSON of requests, results and errors: what `xsam segment --json` prints and the server speaks.

`models` defines it with pydantic, `conversion` translates to and from the types of `xsam`. Shared by the
command line, the server and its client; needs no PyTorch and no web framework.
"""
