"""Support for running tool calls: deadlines, progress events, lazy loading, health."""
