"""Entry point of the MCP server: `python -m xsam_agent_tools.mcp_server`; see `xsam_agent_tools.mcp`."""

from __future__ import annotations

import sys

_EXTRA = frozenset(
    {"anyio", "h11", "httpx", "httpx2", "langchain_core", "mcp", "mcp_types", "pydantic", "typer", "uvicorn"}
)

try:
    from xsam_agent_tools.mcp.server import build_server, main
except ModuleNotFoundError as error:
    if __name__ != "__main__" or (error.name or "").partition(".")[0] not in _EXTRA:
        raise
    sys.exit(f"error: the MCP server needs {error.name}, of the extra mcp: pip install 'xsam[mcp]'")
except KeyboardInterrupt:  # importing takes seconds on a busy machine
    if __name__ != "__main__":
        raise
    sys.exit(130)

__all__ = ["build_server", "main"]

if __name__ == "__main__":
    main()
