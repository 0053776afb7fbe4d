"""The tools over the Model Context Protocol. Run with `python -m xsam_agent_tools.mcp_server`."""
