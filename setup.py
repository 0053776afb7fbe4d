"""Shim for tools that look for setup.py; everything is in pyproject.toml.

colcon is not among them: it builds the repository as the ament_cmake package of package.xml.
"""

from setuptools import setup

setup()
