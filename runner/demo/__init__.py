"""The demonstration behind `make demo`: a small repository with a bug, and the script of a model's part."""
