"""One model for many clients over HTTP: `xsam serve`; see docs/server.md."""
