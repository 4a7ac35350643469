"""The version of this program; `runner.__version__` is the same."""

VERSION = "0.1.0"
