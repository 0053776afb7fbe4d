"""The forms in which annotation tools ask.

A dialect reads a request into questions, each an image and a query, which are asked like any other; then it
writes the responses in the form that the tool expects.
"""
