"""How tool calls run: deadlines, progress events, lazy loading, health."""
