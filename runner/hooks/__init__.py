"""Hooks: programs of the settings' authors that are told what happens, and may tighten it."""
