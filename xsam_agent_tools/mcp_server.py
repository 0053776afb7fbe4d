"""Entry point of the MCP server: `python -m xsam_agent_tools.mcp_server`; see `xsam_agent_tools.mcp`."""

from xsam_agent_tools.mcp.server import build_server, main

__all__ = ["build_server", "main"]

if __name__ == "__main__":
    main()
