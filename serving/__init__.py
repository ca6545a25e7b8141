"""Command line, HTTP API, page, streaming and plots."""
