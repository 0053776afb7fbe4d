"""What every HTTP server of the project shares: who may connect, and how long a connection may wait.

Nothing here knows a web framework: `gate` is plain ASGI, `listening` needs uvicorn.
"""
