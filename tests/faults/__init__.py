"""Hostile inputs, servers and crashes: what SECURITY.md promises, tried from outside."""
